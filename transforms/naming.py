"""Tells the equipment from the path of a cycler's file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

# Names come from whoever sends a file or a message: each of these takes time in proportion to the
# name's length, and what is longer than a path of any file system is looked at from its end.
_LONGEST_PATH = 4096

# Cyclers append the upload's date, or a running number, to the cell's name. Read from the end,
# where each number can be of one kind only, so that there is nothing to try again.
_SUFFIX_BACKWARDS = re.compile(
    r"(?:(?:\d{8,}+|\d{2,4}[ _.-]\d{1,2}[ _.-]\d{1,2}|\d{1,2}[ _.-]\d{1,2}[ _.-]\d{4})[ _.-]++)++"
)
# What browsers and file managers add to a second copy.
_COPY = re.compile(r"(?i)^copy of |(?: ?\(\d+\)| - copy(?: \(\d+\))?)$")
# Names that say what a file is, not of which equipment: there the folder tells.
_GENERIC = re.compile(
    r"(?:streams?|data|dataset|tests?|cycl(?:e|es|ing)|raw|parts?|batch(?:es)?|battery|batteries"
    r"|readings?|measurements?|timeseries|messages?|events?|sensors?|sensor_data|telemetry|logs?"
    r"|files?|outputs?|exports?|chunks?|records?|results?|sheet|channel|json|payloads?)?"
    # a number within `1 of 31 of 3` ends one pair and begins another: it needs a digit for each
    r"(?:[ _.-]?\d++(?:[ _.-]of[ _.-](?:\d{2,}+|\d(?![ _.-]of[ _.-])))*+)*+",
    re.IGNORECASE,
)
# Cyclers number the parts of one test, and say what a file is.
_PART = re.compile(
    r"(?:(?:_Channel_\d+)?(?:_Wb_\d+|_Statistic(?:s|ByCycle|ByStep)?(?:_\d+)?)|_Channel_\d+)$",
    re.IGNORECASE,
)
_EXTENSIONS = frozenset(
    (
        "xlsx", "xlsm", "xls", "xlsb", "ods", "csv", "tsv", "txt", "json", "jsonl", "ndjson",
        "parquet", "gz", "bz2", "xz", "zip", "bdf", "nda", "ndax", "mpr", "mpt", "res", "asc", "dat",
    )
)  # fmt: skip
_LONGEST_EXTENSION = max(map(len, _EXTENSIONS))


def stem(name: str) -> str:
    """A file's name without its (possibly double) data extension: `a.ndjson.gz` gives `a`."""
    end = len(name)
    while (dot := name.rfind(".", max(end - _LONGEST_EXTENSION - 1, 0), end)) >= 0:
        extension = name[dot + 1 : end]
        numbered = len(extension) == 3 and extension.isdecimal()
        if not numbered and extension.lower() not in _EXTENSIONS:
            break
        end = dot
    return name[:end]


def _before_suffix(name: str) -> int:
    """Where the dates and running numbers at a name's end begin; its length if there are none."""
    found = _SUFFIX_BACKWARDS.match(name[::-1])
    return len(name) - (found.end() if found is not None else 0)


def _parts_of(path: str) -> tuple[str, ...]:
    return PurePosixPath(path[-_LONGEST_PATH:].replace("\\", "/")).parts


def is_generic(name: str) -> bool:
    """Whether a name says nothing of an equipment, such as `data_1`, `export` or a number."""
    return _GENERIC.fullmatch(name) is not None


def source_file(path: str) -> str:
    """The file's name with the folder it lies in, however the path was spelled.

    >>> source_file("/data/calce/CS2_35/CS2_35_8_18_10.xlsx")
    'CS2_35/CS2_35_8_18_10.xlsx'
    """
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return "/".join(parts[-2:])


def equipment_from_path(path: str) -> str:
    """The equipment a cycler's file speaks of.

    The folder's name where the file's name begins with it (`CS2_35/CS2_35_8_18_10.xlsx`), else
    the file's name without extension, trailing date or running number and marks of a copy; where
    that leaves nothing but a word like `data`, the folder's name after all.

    >>> equipment_from_path("downloads/CS2_35_8_18_10.xlsx")
    'CS2_35'
    >>> equipment_from_path("cell_A/data_1.csv")
    'cell_A'
    """
    parts = _parts_of(path)
    name = _PART.sub("", _COPY.sub("", stem(parts[-1]))) if parts else ""
    if len(parts) > 1:
        folder = parts[-2]
        rest = name[len(folder) :]
        if folder and name.casefold().startswith(folder.casefold()) and not rest[:1].isalnum():
            return folder
    own = name[: _before_suffix(name)]
    dated = _before_suffix(f"_{name}") == 0
    if dated or is_generic(own):
        # The nearest folder that says something; `dt=2024-01-01` is a partition.
        for folder in reversed(parts[:-1]):
            if "=" not in folder and folder.strip("/.") and not folder.endswith(":"):
                return own or name if is_generic(folder) else folder
    return own or name


def folder_tells(path: str) -> bool:
    """Whether folder and file name agree on an equipment: `CS2_35/CS2_35_8_18_10.xlsx`."""
    parts = _parts_of(path)
    return len(parts) > 1 and equipment_from_path(path) == parts[-2]


def says_little(path: str) -> bool:
    """Whether neither a file's name nor its folders' say which equipment it is of."""
    return is_generic(equipment_from_path(path))


# `CellY_Channel_7_Wb_2`, `paused.052`, `export_part3`: what is the same in all parts, and which
# it is.
_PARTS = (
    re.compile(r"(?P<stem>.+_Wb_)(?P<part>\d+)(?P<rest>\.\w+(?:\.gz)?)", re.IGNORECASE),
    re.compile(r"(?P<stem>.+\.)(?P<part>\d{3})(?P<rest>)"),
    re.compile(r"(?P<stem>.+[ _-]part[ _-]?)(?P<part>\d+)(?P<rest>\.\w+(?:\.gz)?)", re.IGNORECASE),
)


def part_of(path: str) -> tuple[str, int] | None:
    """The name that all parts of a test share, and which part a file is; None if it is whole.

    >>> part_of("CellY/CellY_Channel_7_Wb_2.csv")
    ('CellY/CellY_Channel_7_Wb_*.csv', 2)
    """
    folder, slash, name = path.replace("\\", "/").rpartition("/")
    for pattern in _PARTS:
        if (found := pattern.fullmatch(name)) is not None:
            return f"{folder}{slash}{found['stem']}*{found['rest']}", int(found["part"])
    return None


def first_parts(paths: Iterable[str]) -> dict[str, str]:
    """For each file that is a later part of a test, the test's first part among `paths`."""
    by_test: dict[str, list[tuple[int, str]]] = {}
    for path in paths:
        if (part := part_of(path)) is not None:
            by_test.setdefault(part[0], []).append((part[1], path))
    found = {}
    for parts in by_test.values():
        _, first = min(parts)
        found.update({path: first for _, path in parts if path != first})
    return found
