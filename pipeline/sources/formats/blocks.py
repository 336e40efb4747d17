"""Cuts a text file, or a byte range of it, into blocks of whole lines."""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.sources.formats.content import Content
from pipeline.sources.formats.meter import Refused
from transforms.budget import MIB

BLOCK_BYTES = 8 * MIB


@dataclass(frozen=True)
class Block:
    """Whole lines of a file, or one that is too long to be held.

    Attributes:
        data: the lines; only the file's last one may lack its line end.
        offset: where they begin, in bytes.
        line: number of the first one, counted from 1; None where only the offset is known.
        too_long: bytes of a line that was passed over, which stands here alone; else 0.
    """

    data: bytes
    offset: int
    line: int | None
    too_long: int = 0

    @property
    def position(self) -> str:
        """Where the block begins, for a dead letter."""
        return f"byte {self.offset}" if self.line is None else f"line {self.line}"


class Transcoded(io.RawIOBase):
    """A handle that gives UTF-8 with line feeds, whatever the text underneath has."""

    def __init__(self, handle: BinaryIO, encoding: str, carriage_returns: bool = False) -> None:
        super().__init__()
        self._handle = handle
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._carriage_returns = carriage_returns
        self._started = False
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most `size` of them; none at the end only."""
        if not self._rest:
            self._rest = self._more(size)
        data = self._rest if size < 0 else self._rest[:size]
        self._rest = self._rest[len(data) :]
        return data

    def _more(self, size: int) -> bytes:
        while True:
            raw = self._handle.read(size)
            text = self._decoder.decode(raw, final=not raw)
            if not self._started and text:
                text = text.removeprefix("\ufeff")
                self._started = True
            if self._carriage_returns:
                text = text.replace("\r", "\n")
            if text or not raw:
                return text.encode("utf-8", "replace")

    def close(self) -> None:
        """Closes the handle underneath."""
        self._handle.close()
        super().close()


def blocks(
    content: Content,
    start: int = 0,
    end: int | None = None,
    *,
    aligned: bool = True,
    line: int | None = 1,
    encoding: str = "utf-8",
    carriage_returns: bool = False,
    quotes: bool = False,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[Block]:
    """The lines whose first byte lies in [start, end), in blocks of about `block_bytes`.

    Args:
        content: the file.
        start: where to begin.
        end: where no further line may begin; None reads to the end.
        aligned: whether a line begins at `start`; if not, the one running there is another's.
        line: number of the line at `start`, if known.
        encoding: of the file; offsets count its UTF-8 form where that is not one byte a sign.
        carriage_returns: the lines end in a carriage return alone.
        quotes: a quoted value may hold line ends.
        block_bytes: how much to read at a time.
    """
    limit = sys.maxsize if end is None else end
    handle = content.open()
    seekable = content.seekable
    if encoding.startswith("utf-16") or carriage_returns:
        handle = Transcoded(handle, encoding, carriage_returns)  # type: ignore[assignment]
        seekable = False
    with handle:
        position = start if aligned else start - 1
        if position > 0:
            _skip(handle, position, seekable)
        held = bytearray()
        if not aligned:
            skipped = _to_line_end(handle, limit - position, block_bytes)
            if skipped is None:
                return
            position += skipped[0]
            held += skipped[1]
            if position >= limit:
                return
        longest = content.budget.message_bytes
        yield from _cut_up(handle, held, position, limit, line, quotes, block_bytes, longest)


def _skip(handle: BinaryIO, position: int, seekable: bool) -> None:
    if seekable:
        handle.seek(position)
        return
    left = position
    while left > 0:
        data = handle.read(left)
        if not data:
            return
        left -= len(data)


def _to_line_end(handle: BinaryIO, span: int, size: int) -> tuple[int, bytes] | None:
    """Bytes up to and with the next line end, and what was read beyond; None beyond `span`."""
    seen = 0
    while seen < span and (data := handle.read(size)):
        found = data.find(b"\n")
        if found >= 0:
            return seen + found + 1, data[found + 1 :]
        seen += len(data)
    return None


def _cut_up(
    handle: BinaryIO,
    held: bytearray,
    position: int,
    limit: int,
    line: int | None,
    quotes: bool,
    size: int,
    longest: int,
) -> Iterator[Block]:
    searched = 0
    while True:
        refusal = None
        try:
            last = not _fill(handle, held, size)
        except Refused as error:  # the whole lines before it are good
            refusal, last = error, False
        cut = 0
        if position + len(held) >= limit:
            # The line that holds the range's last byte is the last one.
            found = held.find(b"\n", max(searched, limit - 1 - position))
            if found >= 0:
                cut, last = found + 1, True
        if last and not cut:
            cut = len(held)
        elif not cut:
            cut = _whole_lines(held, searched, quotes)
        if cut:
            data = bytes(memoryview(held)[:cut])
            yield Block(data, position, line)
            position += cut
            if line is not None:
                line += data.count(b"\n")
            del held[:cut]
            searched = 0
        else:
            searched = len(held)
            if refusal is None and searched > longest:
                passed, held = _past_line(handle, searched, size)
                yield Block(b"", position, line, too_long=passed)
                position += passed
                line = None if line is None else line + 1
                searched = 0
        if refusal is not None:
            raise refusal
        if last:
            return


def _past_line(handle: BinaryIO, passed: int, size: int) -> tuple[int, bytearray]:
    """Reads to the end of a line of which `passed` bytes were read: its length, what is behind."""
    while data := handle.read(size):
        found = data.find(b"\n")
        if found >= 0:
            return passed + found + 1, bytearray(data[found + 1 :])
        passed += len(data)
    return passed, bytearray()


def _fill(handle: BinaryIO, held: bytearray, size: int) -> bool:
    """Adds `size` bytes, or what is left; False at the end. Handles may give less than asked."""
    wanted = len(held) + size
    while len(held) < wanted:
        data = handle.read(wanted - len(held))
        if not data:
            return False
        held += data
    return True


def _whole_lines(held: bytearray, searched: int, quotes: bool) -> int:
    cut = held.rfind(b"\n", searched) + 1
    if quotes and cut and held.count(b'"', 0, cut) % 2:
        # The last line end may stand inside a quoted value: cut before the line it begins in.
        # Where that leaves nothing it was a stray quote.
        before = held.rfind(b"\n", 0, held.rfind(b'"', 0, cut)) + 1
        return before or cut
    return cut
