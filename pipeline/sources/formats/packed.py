"""Unpacks files: gzip, bzip2 and xz as they are read, and the members of zip archives."""

from __future__ import annotations

import bz2
import datetime as dt
import errno
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from pipeline.sources.formats.content import Content, Settings
from pipeline.sources.formats.detect import Format, is_companion
from pipeline.sources.formats.meter import Refused, over
from pipeline.sources.formats.zip_names import with_plain_names
from transforms import naming

# The member of a Neware .ndax file that holds its readings.
NDAX_DATA = "data.ndc"

# Archives in archives in archives: beyond this it is a trap, not data.
MAX_DEPTH = 4
_FIRST_ZIP_YEAR = 1980  # what archivers write when they leave the time out
_ENCRYPTED = 0x1
# In small pieces, because what a piece held before the place where unpacking fails is lost.
_READ_BYTES = 128 * 1024


_UNPACKERS: dict[Format, Callable[[Any], Any]] = {
    Format.GZIP: lambda below: gzip.GzipFile(fileobj=below),
    Format.BZIP2: bz2.BZ2File,
    Format.XZ: lzma.LZMAFile,
}

# What a broken archive makes zipfile raise. OSError only as EINVAL: an offset before the file.
_BROKEN_ZIP = (
    zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, OSError
)  # fmt: skip


class _Unpacking(io.RawIOBase):
    """A handle that unpacks as it reads; broken packing becomes a refusal.

    Args:
        unpacked: gives the bytes.
        below: what it reads from, to be closed with it.
        what: for a person.
        reached: is told how far it has come; raises Refused where that is too far.
    """

    def __init__(
        self, unpacked: Any, below: BinaryIO | None, what: str, reached: Callable[[int], None]
    ) -> None:
        super().__init__()
        self._unpacked, self._below, self._what = unpacked, below, what
        self._reached = reached
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes, some of those asked for; none at the end only."""
        try:
            data: bytes = self._unpacked.read(min(size, _READ_BYTES) if size >= 0 else _READ_BYTES)
            self._position += len(data)
            self._reached(self._position)
            return data
        except EOFError:
            raise Refused(
                "truncated_file", f"the {self._what} ends before its end mark; send it again"
            ) from None
        except (gzip.BadGzipFile, lzma.LZMAError, zlib.error, zipfile.BadZipFile) as error:
            raise Refused(
                "corrupt_file", f"the {self._what} cannot be unpacked: {error}; send it again"
            ) from None
        except OSError as error:
            if error.errno or type(error) is not OSError:  # the storage's fault: worth a retry
                raise
            raise Refused(
                "corrupt_file", f"the {self._what} cannot be unpacked: {error}; send it again"
            ) from None

    def close(self) -> None:
        """Closes the handle and the one underneath."""
        self._unpacked.close()
        if self._below is not None:
            self._below.close()
        super().close()


def unpacked(content: Content, packing: Format) -> Content:
    """The content of a gzip, bzip2 or xz file."""
    if content.depth >= MAX_DEPTH:
        raise _too_deep()

    def open_unpacked() -> BinaryIO:
        below = content.open()
        handle: Any = _UNPACKERS[packing](below)
        reached = partial(content.meter.reached, f"{content.path} {packing}")
        return _Unpacking(handle, below, f"{packing} file", reached)  # type: ignore[return-value]

    path = content.path
    if PurePosixPath(path).suffix.lower() in (".gz", ".bz2", ".xz"):
        path = str(PurePosixPath(path).with_suffix(""))
    return replace(content, path=path, open=open_unpacked, seekable=False, depth=content.depth + 1)


@contextmanager
def opened_zip(content: Content) -> Iterator[zipfile.ZipFile]:
    """The open archive, read where it lies."""
    if content.depth >= MAX_DEPTH:
        raise _too_deep()
    with content.open_seekable() as handle, _zip_of(handle, content) as archive:
        _check_members(archive, content)
        yield archive


def _zip_of(handle: BinaryIO, content: Content) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(handle)
    except UnicodeDecodeError:
        return zipfile.ZipFile(io.BytesIO(with_plain_names(content.read_all())))
    except _BROKEN_ZIP as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise Refused(
            "truncated_file",
            f"it begins like a zip archive but its directory cannot be read ({error}); it was "
            "probably cut off: send it again",
        ) from None


def _check_members(archive: zipfile.ZipFile, content: Content) -> None:
    """Refuses an archive of too many files, and one whose files share their bytes."""
    infos = archive.infolist()
    if len(infos) > content.budget.members:
        raise over(content.budget, "members", f"the archive holds {len(infos):,} files")
    packed = sum(info.compress_size for info in infos)
    if packed > archive.start_dir:
        raise Refused(
            "corrupt_file",
            f"the archive's files have {packed:,} bytes together and the archive fewer: they "
            "overlap; pack it again",
        )


def is_workbook(archive: zipfile.ZipFile) -> bool:
    """Whether the archive is a workbook itself."""
    names = set(archive.namelist())
    return bool(names & {"xl/workbook.xml", "xl/workbook.bin"}) or names >= {
        "mimetype",
        "content.xml",
    }


def is_ndax(archive: zipfile.ZipFile) -> bool:
    """Whether the archive is a Neware .ndax file, whatever its name."""
    return NDAX_DATA in archive.namelist()


def data_members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The members that are data, in the archive's order."""
    return [
        info
        for info in archive.infolist()
        if not info.filename.endswith("/") and not is_companion(info.filename)
    ]


def members(
    archive: zipfile.ZipFile,
    outer: Content,
    settings: Settings,
    start: int = 0,
    end: int | None = None,
) -> list[Content]:
    """The members that are data, or some of them by their place, each as a file of its own.

    Args:
        archive: they lie in.
        outer: the archive as a file.
        settings: how files are read.
        start: place of the first one.
        end: place behind the last one; None: all.
    """
    firsts = naming.first_parts(archive.namelist())
    return [
        _member(archive, info, outer, settings, firsts) for info in data_members(archive)[start:end]
    ]


def _member(
    archive: zipfile.ZipFile,
    info: zipfile.ZipInfo,
    outer: Content,
    settings: Settings,
    firsts: Mapping[str, str],
) -> Content:
    """One member as a file of its own, under the path it would have if it were unpacked.

    Args:
        archive: it lies in.
        info: what the archive says of it.
        outer: the archive as a file.
        settings: how files are read.
        firsts: of members that may continue another one's test, which one (`first_parts`).
    """
    path = info.filename or "unnamed"
    if "/" not in path.strip("/"):
        path = f"{naming.stem(PurePosixPath(outer.path).name)}/{path}"

    def open_member() -> BinaryIO:
        if info.flag_bits & _ENCRYPTED:
            raise Refused(
                "encrypted_member", f"{info.filename} has a password; pack it without one"
            )
        try:
            handle = archive.open(info)
        except _BROKEN_ZIP as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            raise Refused(
                "corrupt_file",
                f"{info.filename} cannot be unpacked: {error}; pack it again with deflate",
            ) from None
        reached = partial(outer.meter.reached, f"{outer.path}/{info.filename} {info.header_offset}")
        return _Unpacking(handle, None, "zip member", reached)  # type: ignore[return-value]

    scale = info.compress_size / info.file_size if info.file_size else 1.0
    began = firsts.get(info.filename)
    first = None
    if began is not None:
        first = partial(_member, archive, archive.getinfo(began), outer, settings, {})
    return Content(
        path=path,
        source_file=naming.source_file(path),
        equipment_id=settings.equipment_id or naming.equipment_from_path(path),
        arrived_at_us=_modified_us(info, outer.arrived_at_us),
        size=info.file_size,
        open=open_member,
        seekable=False,
        depth=outer.depth + 1,
        share=outer.share.take(info.compress_size, scale),
        first=first,
        key=(*outer.key, info.filename, info.header_offset) if outer.key else (),
        budget=outer.budget,
        meter=outer.meter,
    )


def _modified_us(info: zipfile.ZipInfo, otherwise: int) -> int:
    try:
        modified = dt.datetime(*info.date_time, tzinfo=dt.UTC)
    except ValueError:
        return otherwise
    if modified.year <= _FIRST_ZIP_YEAR:
        return otherwise
    return int(modified.timestamp()) * 1_000_000


def _too_deep() -> Refused:
    return Refused(
        "unsupported_format", f"archives lie more than {MAX_DEPTH} deep in one another; unpack them"
    )
