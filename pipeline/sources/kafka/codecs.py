"""Unpacks a Kafka batch's records, up to a number of bytes: a small batch may hold gigabytes."""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Iterator
from contextlib import closing

import lz4.frame  # type: ignore[import-untyped]
import snappy  # type: ignore[import-untyped]
import zstandard

_STEP = 1 << 20
_XERIAL = b"\x82SNAPPY\x00"
_XERIAL_HEADER = 16


class UnknownCodecError(ValueError):
    """A batch is packed by a method that Kafka does not have."""


def unpacked(data: memoryview | bytes, codec: int, most: int) -> tuple[bytes, bool]:
    """The first `most` bytes of a batch's records, and whether these are all.

    Args:
        data: as the broker gives it.
        codec: Kafka's number: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
        most: how many bytes to unpack.

    Raises:
        UnknownCodecError: there is no such codec.
        Exception: the codec's own, where `data` is damaged.
    """
    if codec == 0:
        return bytes(data), True
    if codec not in _CODECS:
        raise UnknownCodecError(f"there is no codec {codec}")
    found: list[bytes] = []
    size = 0
    for part in _CODECS[codec](bytes(data), most):
        found.append(part)
        size += len(part)
        if size > most:
            return b"".join(found)[:most], False
    return found[0] if len(found) == 1 else b"".join(found), True


def _gzip(data: bytes, _most: int) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        while part := file.read(_STEP):
            yield part


def _zstd(data: bytes, _most: int) -> Iterator[bytes]:
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True)
    with closing(reader):
        while part := reader.read(_STEP):
            yield part


def _lz4(data: bytes, _most: int) -> Iterator[bytes]:
    reader = lz4.frame.LZ4FrameDecompressor()
    yield reader.decompress(data, max_length=_STEP)
    while not reader.eof:
        if reader.needs_input:
            raise EOFError("the LZ4 frame is cut off")
        yield reader.decompress(b"", max_length=_STEP)


def _snappy(data: bytes, most: int) -> Iterator[bytes]:
    if not data.startswith(_XERIAL):
        yield _snappy_block(data, most)
        return
    at = _XERIAL_HEADER
    while at < len(data):
        (length,) = struct.unpack_from(">i", data, at)
        at += 4
        if length <= 0:
            raise ValueError(f"a Snappy block of {length} bytes")
        yield _snappy_block(data[at : at + length], most)
        at += length


def _snappy_block(block: bytes, most: int) -> bytes:
    """A block unpacked; it says its size first, and can't be unpacked in part."""
    size = 0
    for place, byte in enumerate(block[:5]):
        size |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            break
    if size > most:
        raise ValueError(f"a Snappy block of {size:,} bytes; the limit is {most:,}")
    found: bytes = snappy.uncompress(block)
    return found


_CODECS = {1: _gzip, 2: _snappy, 3: _lz4, 4: _zstd}
