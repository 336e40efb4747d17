"""Lists a source's files and cuts and groups them to pieces of about equal work."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from apache_beam.io.filesystem import CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from pipeline import safe_open
from pipeline.sources.formats import delimited, jsonlines, packed, parquet, reader
from pipeline.sources.formats.content import Content, Settings, Share
from pipeline.sources.formats.detect import Format, extension, is_companion
from pipeline.sources.formats.meter import Meter, Refused
from transforms import naming

# Opening a file costs as much as reading this much of it; it keeps groups of tiny files short.
OPENING_BYTES = 64 * 1024

# The last second that a date can have: a disk may say any time.
_LAST_S = 253_402_300_799

_GLOB = re.compile(r"[*?\[]")
_IN_BRACKETS = r"[\g<0>]"


@dataclass(frozen=True)
class Members:
    """Members `start` to `end` (exclusive) of a zip archive, counted over those that are data."""

    start: int
    end: int


@dataclass(frozen=True)
class Split:
    """A file, or the part of it that one worker reads.

    Attributes:
        path: where it can be opened.
        size: bytes of the whole file.
        modified_us: its modification time.
        cost: the bytes this part stands for; a file's parts add up to its size.
        span: which part; None is the whole file.
        first: the file that the test began in, where this one continues it.
        root: the folder of this machine that it must lie in, links followed; None: anywhere.
    """

    path: str
    size: int
    modified_us: int
    cost: int
    span: reader.Span | Members | None = None
    first: Split | None = None
    root: str | None = None

    def content(self, settings: Settings) -> Content:
        """The file as a format's reader takes it."""
        path = name_as_text(self.path)
        return Content(
            path=path,
            source_file=naming.source_file(path),
            equipment_id=settings.equipment_id or naming.equipment_from_path(path),
            arrived_at_us=self.modified_us,
            size=self.size,
            open=self.open,
            share=Share(self.cost),
            first=None if self.first is None else partial(self.first.content, settings),
            key=(self.path, self.size, self.modified_us),
            budget=settings.budget,
            meter=Meter(self.size, settings.budget),
        )

    def open(self) -> BinaryIO:
        """The file, open for reading.

        Raises:
            Refused: it lies outside the folder that is read, or is no regular file.
        """
        return opened(self.path, self.root)

    @property
    def outside(self) -> bool:
        """Whether it is a link that leads out of the folder that is read."""
        return safe_open.is_outside(self.path, self.root)


def opened(path: str, root: str | None) -> BinaryIO:
    """A file of this machine or of a bucket, open for reading; see `Split.open`."""
    if FileSystems.get_scheme(path) is not None:
        found = FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
        return cast("BinaryIO", found)
    try:
        return safe_open.reading(path, root)
    except safe_open.Outside:
        raise Refused(
            "outside_source",
            "it is a link that leads out of the folder of --source, and was not followed; copy "
            "the file there, or name it as --source itself",
        ) from None
    except safe_open.NoFile:
        raise Refused(
            "no_file", "it is a folder, pipe, socket or device by now; put a file there"
        ) from None


Group = tuple[Split, ...]


def list_files(pattern: str, skip: tuple[str, ...] = ()) -> list[Split]:
    """The files that a path (file, folder or glob) stands for, sorted, without companions.

    Links that lead out of the folder are among them, and are refused when they are opened.
    """
    named = _named_file(pattern)
    if named is not None:
        return [_whole(named)]
    folder = pattern.rstrip("/")
    # A folder may have signs of a glob in its name.
    glob = _GLOB.search(pattern) is not None and not Path(pattern).is_dir()
    found = _match(pattern) if glob else []
    root = folder
    if found:
        root = _GLOB.split(pattern)[0].rpartition("/")[0]
    else:  # a folder, a prefix of objects, or a glob of folders
        found = _match(f"{folder if glob else _GLOB.sub(_IN_BRACKETS, folder)}/**")
    here = FileSystems.get_scheme(pattern) is None
    inside = (_GLOB.split(pattern)[0].rpartition("/")[0] if glob else folder) or "."
    if here and pattern.startswith("/") and inside == ".":
        inside = "/"
    if here and not glob:
        found += _linked_folders(folder)
    return _in_tests(
        _whole(meta, inside if here else None)
        for meta in found
        if not meta.path.endswith("/")
        and not _is_hidden(meta.path, root, skip)
        and _is_file(meta.path, inside)
    )


def odd_names(pattern: str) -> list[str]:
    """Pipes, sockets and devices in a folder of this machine, which are not read."""
    if FileSystems.get_scheme(pattern) is not None or not Path(pattern).is_dir():
        return []
    return [
        str(Path(place, name))
        for place, _, names in os.walk(pattern)
        for name in names
        if not name.startswith(".")
        and Path(place, name).exists()
        and not Path(place, name).is_file()
    ]


def _linked_folders(root: str) -> list[FileMetadata]:
    """Links to folders outside: Beam follows none, and what lies inside is found at its place."""
    return [
        FileMetadata(link, 0, Path(link).lstat().st_mtime)
        for place, folders, _ in os.walk(root)
        for link in (os.path.join(place, name) for name in folders)  # noqa: PTH118 - as Beam's
        if safe_open.is_outside(link, root)
    ]


def _in_tests(splits: Iterable[Split]) -> list[Split]:
    """The files sorted by name; those that continue a test know where it began."""
    ordered = sorted(splits, key=lambda split: split.path)
    by_path = {split.path: split for split in ordered}
    firsts = naming.first_parts(path for path, split in by_path.items() if not split.outside)
    return [
        replace(split, first=by_path[firsts[split.path]]) if split.path in firsts else split
        for split in ordered
    ]


def _named_file(pattern: str) -> FileMetadata | None:
    if FileSystems.get_scheme(pattern) is None:
        if not Path(pattern).is_file():
            return None
        stat = Path(pattern).stat()
        return FileMetadata(pattern, stat.st_size, stat.st_mtime)
    if _GLOB.search(pattern) or pattern.endswith("/"):
        return None
    if "/" not in pattern.split("://", 1)[1]:
        return None  # a bucket alone
    found = _match(pattern)
    return found[0] if found else None


def _match(pattern: str) -> list[FileMetadata]:
    return list(FileSystems.match([pattern])[0].metadata_list)


def _is_file(path: str, root: str) -> bool:
    """False for pipes, sockets and devices, whose end would be waited for."""
    if FileSystems.get_scheme(path) is not None or Path(path).is_file():
        return True
    # Of a link that leads outside it is not even looked at what is there.
    return safe_open.is_outside(path, root)


def _is_hidden(path: str, root: str, skip: tuple[str, ...]) -> bool:
    below = path.removeprefix(root)
    folders = [part for part in below.split("/")[:-1] if part not in ("", ".", "..")]
    return is_companion(path, skip) or any(part.startswith(".") for part in folders)


def _whole(meta: FileMetadata, root: str | None = None) -> Split:
    seconds = min(max(meta.last_updated_in_seconds or 0, 0), _LAST_S)
    size = 0 if safe_open.is_outside(meta.path, root) else meta.size_in_bytes
    return Split(meta.path, size, int(seconds * 1_000_000), size, root=root)


def name_as_text(path: str) -> str:
    """A file's name as text: a disk may hold names that are not UTF-8."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def grouped(splits: Iterable[Split], settings: Settings) -> Iterator[Group]:
    """Whole files gathered to groups of about `split_bytes`; a large one or an archive alone."""
    group: list[Split] = []
    weight = 0
    for split in splits:
        if split.size > settings.split_bytes or extension(split.path) == "zip":
            yield (split,)
            continue
        cost = max(split.cost, OPENING_BYTES)
        if group and weight + cost > settings.split_bytes:
            yield tuple(group)
            group, weight = [], 0
        group.append(split)
        weight += cost
    if group:
        yield tuple(group)


def planned(group: Group, settings: Settings) -> Iterator[Group]:
    """Cuts a large file or an archive to parts, each a group; other groups stay as they are."""
    if len(group) > 1 or group[0].span is not None:
        yield group
        return
    split = group[0]
    try:
        parts = _parts(split, settings)
    except Exception:  # noqa: BLE001 - the reader meets it again and reports it
        parts = []
    yield from ((part,) for part in _adding_up(parts, split) or group)


def _parts(split: Split, settings: Settings) -> list[Split]:
    if extension(split.path) == "zip":
        return _zip_parts(split, settings)
    if split.size <= settings.split_bytes:
        return []
    content = split.content(settings)
    if reader.format_of(content) is Format.ZIP:
        return _zip_parts(split, settings)
    return [
        replace(split, span=span, cost=_cost(span, split))
        for span in reader.plan(content, settings)
    ]


def _cost(span: reader.Span, split: Split) -> int:
    if isinstance(span, delimited.Span | jsonlines.Span):
        return span.end - span.start
    assert isinstance(span, parquet.Span)
    return max(min(span.size, split.size), 0)


def _zip_parts(split: Split, settings: Settings) -> list[Split]:
    with packed.opened_zip(split.content(settings)) as archive:
        if packed.is_workbook(archive) or packed.is_ndax(archive):
            return []
        infos = packed.data_members(archive)
    parts: list[Split] = []
    start = size = cost = 0
    for index, info in enumerate(infos):
        if index > start and size + info.file_size > settings.split_bytes:
            parts.append(replace(split, span=Members(start, index), cost=cost))
            start, size, cost = index, 0, 0
        size += max(info.file_size, OPENING_BYTES)
        cost += info.compress_size
    parts.append(replace(split, span=Members(start, len(infos)), cost=cost))
    return parts


def _adding_up(parts: list[Split], whole: Split) -> list[Split]:
    """The parts with what belongs to none of them (headers, directories) put on the last one."""
    if parts:
        rest = whole.size - sum(part.cost for part in parts[:-1])
        parts[-1] = replace(parts[-1], cost=max(rest, 0))
    return parts
