"""What a format's reader takes (one file's bytes) and gives (batches, messages, refusals)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import pyarrow as pa

from pipeline.progress import PROGRESS
from pipeline.sources.formats.meter import Meter, Refused, over
from transforms.batch import Origin, RawBatch
from transforms.budget import LETTER_BYTES, MIB, USUAL, Budget
from transforms.dead_letter import DeadLetter
from transforms.interpret.interpretation import Interpretation
from transforms.interpret.told import Told

STEP = "read"

# A refused payload beyond this stays in the raw archive only.
PAYLOAD_LIMIT = LETTER_BYTES
_PIECE_BYTES = 4 * MIB


@dataclass(frozen=True)
class Settings:
    """How files are read.

    Attributes:
        source: the source as configured, without secrets.
        equipment_id: the equipment of every row that names none; None tells it from the path.
        time_zone: the zone of times that carry none.
        split_bytes: how much of a file one worker takes at a time.
        batch_rows: rows of one batch, where a format can be cut.
        day_first: whether dates have the day first; None: the file decides.
        told: what the user says about files.
        budget: what one file may take.
    """

    source: str
    equipment_id: str | None = None
    time_zone: str = "UTC"
    split_bytes: int = 64 * MIB
    batch_rows: int = 20_000
    day_first: bool | None = None
    told: tuple[Told, ...] = ()
    budget: Budget = USUAL

    def told_of(self, path: str) -> Told | None:
        """What the user says about a file: the first that covers it."""
        return next((told for told in self.told if told.covers(path)), None)


class Share:
    """The part of a source's bytes that one file stands for, on the progress bar.

    It never advances the bar beyond that part, and `finish` completes it, so that the sum over
    all shares is the sum of the files' sizes whatever was skipped, re-read or refused.
    """

    def __init__(self, size: int, scale: float = 1.0) -> None:
        self._left = size
        self._scale = scale

    def advance(self, amount: int) -> None:
        """Tells that `amount` bytes of the (unpacked) content were read."""
        step = min(self._left, int(amount * self._scale))
        self._left -= step
        PROGRESS.advance(step)

    def take(self, size: int, scale: float = 1.0) -> Share:
        """A share of its own for a piece that stands for `size` bytes of this one."""
        part = min(self._left, size)
        self._left -= part
        return Share(part, scale)

    def finish(self) -> None:
        """Tells that nothing of it is left to read."""
        PROGRESS.advance(self._left)
        self._left = 0


@dataclass(frozen=True)
class Content:
    """One file's bytes, wherever they lie.

    Attributes:
        path: the name that tells its format and its equipment, with folders.
        source_file: its name with its folder, as readings carry it.
        equipment_id: the equipment of its rows.
        arrived_at_us: its modification time.
        size: its bytes, as far as known without reading.
        open: opens it anew, from the start, as often as wanted.
        seekable: whether the handle finds any place without reading up to it.
        depth: how many archives it lies in.
        first: of a file that may continue another one's test, gives that one.
        key: what no file with other bytes has in this process.
        share: what it advances on the progress bar.
        budget: what one file may take.
        meter: counts what the file of the source unpacks to, which this may be a part of.
    """

    path: str
    source_file: str
    equipment_id: str | None
    arrived_at_us: int
    size: int
    open: Callable[[], BinaryIO]
    seekable: bool = True
    depth: int = 0
    first: Callable[[], Content] | None = None
    key: tuple[Hashable, ...] = ()
    share: Share = field(default_factory=lambda: Share(0))
    budget: Budget = USUAL
    meter: Meter = field(default_factory=lambda: Meter(USUAL.unpacked_bytes))

    def read_all(self) -> bytes:
        """The whole content; raises Refused where that is more than may be held in memory."""
        most = self.budget.held_bytes
        held = bytearray()
        with self.open() as handle:
            while data := handle.read(min(_PIECE_BYTES, most + 1 - len(held))):
                held += data
                if len(held) > most:
                    raise over(
                        self.budget, "held_mb", f"it has more than {most // MIB:,} MiB to be held"
                    )
        return bytes(held)

    def open_seekable(self) -> BinaryIO:
        """A handle that can be positioned at will; copies to memory what cannot."""
        return self.open() if self.seekable else io.BytesIO(self.read_all())

    def origin(
        self,
        settings: Settings,
        first_row: int = 1,
        test_start_us: int | None = None,
        reading: Interpretation | None = None,
        last_s: float | None = None,
    ) -> Origin:
        """The origin of a batch of table rows."""
        return Origin(
            source=settings.source,
            source_file=self.source_file,
            arrived_at_us=self.arrived_at_us,
            equipment_id=self.equipment_id,
            test_start_us=test_start_us,
            first_row=first_row,
            reading=reading,
            last_s=last_s,
        )

    def letter(
        self,
        settings: Settings,
        error_type: str,
        message: str,
        payload: bytes | None = None,
        position: str | None = None,
    ) -> DeadLetter:
        """A dead letter for a piece of this file."""
        if payload is not None and len(payload) > PAYLOAD_LIMIT:
            message += f" ({len(payload)} bytes: too long to keep here, see the raw archive)"
            payload = None
        return DeadLetter(
            step=STEP,
            error_type=error_type,
            error_message=message,
            source=settings.source,
            ingested_at_us=self.arrived_at_us,
            payload=payload,
            source_file=self.source_file,
            position=position,
            equipment_id=self.equipment_id,
        )

    def refuse(self, settings: Settings, refusal: Refused) -> DeadLetter:
        """The dead letter for this file as a whole."""
        payload = None
        if self.size <= PAYLOAD_LIMIT:
            # What can't be opened or unpacked has no bytes to show.
            with contextlib.suppress(Exception):
                payload = self.read_all()
        if payload is not None and len(payload) > PAYLOAD_LIMIT:
            payload = None
        return self.letter(settings, refusal.error_type, refusal.message, payload)


@dataclass(frozen=True)
class Messages:
    """Messages of one file, in order, before they are packed into batches."""

    content: Content
    payloads: list[bytes]
    positions: list[str]
    size: int


@dataclass(frozen=True)
class Summaries:
    """A file, or a sheet of one, that holds no readings but what is said about them.

    Attributes:
        content: the file.
        table: what it says of cycles (schema CYCLE_SUMMARY); no row where it says nothing of them.
        goes_on: whether it is a later piece of what was given before.
    """

    content: Content
    table: pa.Table
    goes_on: bool = False


Output = RawBatch | Messages | DeadLetter | Summaries
Outputs = Iterator[Output]
