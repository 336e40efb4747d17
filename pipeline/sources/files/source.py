"""The file source: workbooks, zip archives, CSV, JSON, NDJSON and Parquet, here or in a bucket."""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, Self

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics

from pipeline import outcome
from pipeline.clock import now_us
from pipeline.errors import ConfigError
from pipeline.shown import address
from pipeline.sources import Bounded, Received, Wanted
from pipeline.sources.files import positions
from pipeline.sources.files.readahead import read_group
from pipeline.sources.files.splits import (
    Group,
    Split,
    grouped,
    list_files,
    name_as_text,
    odd_names,
    planned,
)
from pipeline.sources.formats.content import Messages, Settings, Summaries
from pipeline.sources.formats.messages import Packer
from pipeline.sources.formats.meter import Refused
from pipeline.sources.formats.parquet import NO_PAYLOAD
from pipeline.stores.raw_file import RawFile
from transforms import dead_letter, naming
from transforms.batch import RawBatch
from transforms.budget import MIB, USUAL, Budget
from transforms.dead_letter import DeadLetter
from transforms.interpret.told import Told

# One table of dead letters holds at most this much, so that no element grows without bound.
_LETTERS = 1000
_LETTER_BYTES = 8 * MIB
# Longer than any bucket needs to list, shorter than anybody waits.
_LISTING_S = 30.0
# So many files that are left out are named.
_NAMED = 10

_log = logging.getLogger(__name__)


class FileSource(Bounded):
    """Reads a file, a folder with all below it, or a glob; locally, from gs:// or from s3://.

    Args:
        pattern: the path.
        name: the source as configured, without secrets, as readings' origins carry it.
        equipment_id: the equipment of every row that names none; None tells it from the path.
        time_zone: the zone of times that carry none.
        split_bytes: how much of a file one worker takes at a time.
        batch_rows: rows of one batch, where a format can be cut.
        skip: patterns of file names to leave out, besides hidden files, notes and pictures.
        day_first: whether dates have the day first; None: each file decides.
        dialects: what the user says about how files are to be read.
        budget: what one file may take.
        run: which run reads them.
    """

    unit = "B"
    takes_dialects = True

    def __init__(
        self,
        pattern: str,
        name: str,
        equipment_id: str | None = None,
        time_zone: str = "UTC",
        split_bytes: int = 64 * MIB,
        batch_rows: int = 20_000,
        skip: tuple[str, ...] = (),
        day_first: bool | None = None,
        dialects: tuple[Told, ...] = (),
        budget: Budget = USUAL,
        run: str = "",
    ) -> None:
        self.pattern = pattern
        self.skip = skip
        self._run = run
        self.settings = Settings(
            name, equipment_id, time_zone, split_bytes, batch_rows, day_first, dialects, budget
        )

    @classmethod
    def from_config(cls, wanted: Wanted) -> Self:
        """The files that `--source` names."""
        config = wanted.config
        return cls(
            config.source,
            name=config.source,
            equipment_id=config.equipment_id,
            time_zone=config.zone,
            day_first=config.day_first,
            dialects=config.dialects,
            budget=config.budget,
            run=config.run,
        )

    @cached_property
    def found(self) -> list[Split]:
        """The files, in the order in which they are read."""
        return list_files(self.pattern, self.skip)

    def check(self) -> None:
        """Finds out whether there is anything to read; raises ConfigError."""
        name = self.settings.source
        try:
            found = self._listed()
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                f"--source={address(name)} cannot be listed: {error}; check the path and that this "
                "account may read it"
            ) from error
        if not found:
            raise ConfigError(
                f"--source={address(name)} matches no file with data; name a file, a folder or a glob "
                "(in quotes) that exists"
            )
        self._warn(found)
        # A file that can't be opened is refused when its turn comes; if no file can, nothing is.
        local = FileSystems.get_scheme(found[0].path) is None
        failed: Exception | None = None
        for split in found if local else found[:1]:
            try:
                with split.open() as handle:
                    handle.read(1)
            except Refused:  # the reader meets it again, and reports it
                return
            except Exception as error:  # noqa: BLE001 - one file's, unless it is that of all
                failed = failed or error
            else:
                return
        raise ConfigError(
            f"--source={address(name)}: {name_as_text(found[0].path)} cannot be opened: {failed}; "
            "check that this account may read it"
        ) from failed

    def _warn(self, found: list[Split]) -> None:
        """Names what is left out: a line for links, and one for what is no file."""
        for names, why in (
            ([split.path for split in found if split.outside], "lead out of the folder"),
            (odd_names(self.pattern), "are pipes, sockets or devices"),
        ):
            if names:
                more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
                listed = ", ".join(names[:_NAMED])
                _log.warning("left out, since they %s: %s%s", why, listed, more)

    def _listed(self) -> list[Split]:
        """The files; without credentials a bucket's client would try for minutes."""
        if FileSystems.get_scheme(self.pattern) is None:
            return self.found
        # Not a pool: its threads would be waited for at exit.
        outcome: queue.SimpleQueue[list[Split] | Exception] = queue.SimpleQueue()

        def look() -> None:
            try:
                outcome.put(self.found)
            except Exception as error:  # noqa: BLE001 - handed on to the caller
                outcome.put(error)

        threading.Thread(target=look, daemon=True).start()
        try:
            found = outcome.get(timeout=_LISTING_S)
        except queue.Empty:
            raise ConfigError(
                f"--source={address(self.settings.source)} did not answer within {_LISTING_S:.0f} s; check "
                "the network and the credentials (gs://: GOOGLE_APPLICATION_CREDENTIALS or gcloud "
                "auth application-default login; s3://: AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or a profile)"
            ) from None
        if isinstance(found, Exception):
            raise found
        return found

    @property
    def total(self) -> int:
        """The bytes of all files: what PROGRESS reaches at the end."""
        return sum(split.size for split in self.found)

    def batches(self) -> Iterator[RawBatch | DeadLetter]:
        """All that the files hold, in this process and in their order; without summaries."""
        return (output for output in self.outputs() if not isinstance(output, Summaries))

    def outputs(self) -> Iterator[RawBatch | DeadLetter | Summaries]:
        """All that the files hold, in this process and in their order."""
        for group in grouped(self.found, self.settings):
            for part in planned(group, self.settings):
                yield from _outputs(part, self.settings, set(), Counter())

    def read(self, pipeline: beam.Pipeline) -> Received:
        """Adds the steps: list, plan, read. All of them work on the workers."""
        listed = (
            pipeline
            | "Start files" >> beam.Impulse()
            | "List files"
            >> beam.ParDo(_List(self.pattern, self.skip, self.settings)).with_outputs(
                "files", main="groups"
            )
        )
        outputs = (
            listed.groups
            | "Spread files" >> beam.Reshuffle()
            | "Plan splits" >> beam.ParDo(_Plan(self.settings))
            | "Spread splits" >> beam.Reshuffle()
            | "Read files"
            >> beam.ParDo(_Read(self.settings))
            .with_output_types(
                RawBatch,
                dead_letters=pa.Table,
                summaries=pa.Table,
                opened=str,
                parts=tuple[str, positions.Read],
            )
            .with_outputs("dead_letters", "summaries", "opened", "parts", main="batches")
        )
        return Received(
            outputs.batches,
            outputs.dead_letters,
            listed.files,
            summaries=outputs.summaries,
            opened=outputs.opened,
            positions=positions.of_files(outputs.parts, self._run, self.settings.source),
        )


def _outputs(
    group: Group, settings: Settings, opened: set[str], read: Counter[str]
) -> Iterator[RawBatch | DeadLetter | Summaries]:
    """Everything a group's files hold, their messages packed.

    The names of the files are added to `opened`; not those that replayed rows say they are from.
    What was read of each file is added to `read`.
    """
    packer = Packer(settings)
    for name, output in read_group(group, settings):
        if isinstance(output, Messages):
            opened.add(output.content.source_file)
            read[name] += len(output.payloads)
            yield from packer.add(output)
            continue
        if isinstance(output, RawBatch):
            read[name] += output.table.num_rows
            if output.origin.source_file is not None:
                opened.add(output.origin.source_file)
        elif isinstance(output, DeadLetter):
            read[name] += 1
            if output.error_type != NO_PAYLOAD:
                opened.add(output.source_file or "")
        yield output
    yield from packer.flush()


class _List(beam.DoFn):
    """The source's files: each to the archive, and in groups to the reader."""

    def __init__(self, pattern: str, skip: tuple[str, ...], settings: Settings) -> None:
        self._pattern, self._skip, self._settings = pattern, skip, settings

    def process(self, _: Any) -> Iterator[Any]:
        found = list_files(self._pattern, self._skip)
        for split in found:
            source_file = naming.source_file(name_as_text(split.path))
            file = RawFile(split.path, source_file, split.modified_us, split.size, split.root)
            yield beam.pvalue.TaggedOutput("files", file)
        yield from grouped(found, self._settings)


class _Plan(beam.DoFn):
    """Large files and archives in parts."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def process(self, group: Group) -> Iterable[Group]:
        return planned(group, self._settings)


class _Read(beam.DoFn):
    """Batches of a group of files, what they say of cycles, and dead letters for what is wrong."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._received = Metrics.counter("account", "read")
        self._refused = Metrics.counter("account", "dead_letters")
        self._witnesses = Metrics.counter(outcome.FILES, outcome.WITNESSES)
        self._without_readings = Metrics.counter(outcome.FILES, outcome.WITHOUT_READINGS)

    def process(self, group: Group) -> Iterator[Any]:
        letters: list[DeadLetter] = []
        held = 0
        opened: set[str] = set()
        read: Counter[str] = Counter()
        began_us = now_us()
        for output in _outputs(group, self._settings, opened, read):
            if isinstance(output, RawBatch):
                yield self._count(output)
                continue
            if isinstance(output, Summaries):
                yield from self._note(output)
                continue
            letters.append(output)
            held += len(output.payload or b"")
            if len(letters) >= _LETTERS or held >= _LETTER_BYTES:
                yield self._refuse(letters)
                letters, held = [], 0
        if letters:
            yield self._refuse(letters)
        for name in sorted(opened):
            yield beam.pvalue.TaggedOutput("opened", name)
        for part in positions.of_part(read, began_us):
            yield beam.pvalue.TaggedOutput("parts", part)

    def _note(self, summaries: Summaries) -> Iterator[beam.pvalue.TaggedOutput]:
        if summaries.table.num_rows:
            if not summaries.goes_on:
                self._witnesses.inc()
            yield beam.pvalue.TaggedOutput("summaries", summaries.table)
        else:
            self._without_readings.inc()

    def _count(self, batch: RawBatch) -> RawBatch:
        self._received.inc(batch.table.num_rows)
        return batch

    def _refuse(self, letters: list[DeadLetter]) -> beam.pvalue.TaggedOutput:
        self._received.inc(len(letters))
        self._refused.inc(len(letters))
        table: pa.Table = dead_letter.table(letters)
        return beam.pvalue.TaggedOutput("dead_letters", table)
