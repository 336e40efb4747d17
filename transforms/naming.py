"""Tells the equipment from the path of a cycler's file."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

# Cyclers append the upload's date, or a running number, to the cell's name.
_SUFFIX = re.compile(
    r"(?:[ _.-]+(?:\d{1,2}[ _.-]\d{1,2}[ _.-]\d{2,4}|\d{4}[ _.-]\d{1,2}[ _.-]\d{1,2}|\d{8,}))+$"
)
_EXTENSIONS = re.compile(
    r"\.(xlsx|xlsm|xls|xlsb|ods|csv|tsv|txt|json|jsonl|ndjson|parquet|gz|zip|bdf)$", re.IGNORECASE
)


def stem(name: str) -> str:
    """A file's name without its (possibly double) data extension: `a.ndjson.gz` gives `a`."""
    while _EXTENSIONS.search(name):
        name = _EXTENSIONS.sub("", name)
    return name


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
    the file's name without extension and trailing date or running number.

    >>> equipment_from_path("downloads/CS2_35_8_18_10.xlsx")
    'CS2_35'
    """
    parts = PurePosixPath(path.replace("\\", "/")).parts
    name = stem(parts[-1]) if parts else ""
    if len(parts) > 1:
        folder = parts[-2]
        rest = name[len(folder) :]
        if folder and name.casefold().startswith(folder.casefold()) and not rest[:1].isalnum():
            return folder
    return _SUFFIX.sub("", name) or name
