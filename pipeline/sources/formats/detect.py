"""Tells a file's format: by its first bytes, and by its name only where those leave a choice."""

from __future__ import annotations

import codecs
import fnmatch
import re
from enum import StrEnum
from pathlib import PurePosixPath

import msgspec

HEAD_BYTES = 256 * 1024


class Format(StrEnum):
    """The formats that are told apart."""

    EMPTY = "empty"
    WORKBOOK = "workbook"
    ZIP = "zip"
    PARQUET = "parquet"
    GZIP = "gzip"
    BZIP2 = "bzip2"
    XZ = "xz"
    NDA = "nda"
    NDAX = "ndax"
    MPR = "mpr"
    ACCESS = "access"
    NDJSON = "ndjson"
    JSON = "json"
    DELIMITED = "delimited"
    UNKNOWN = "unknown"


WORKBOOK_NAMES = ("xlsx", "xlsm", "xlsb", "xls", "ods")
TEXT_NAMES = ("csv", "tsv", "txt", "dat", "tab", "bdf", "asc", "mpt")
LINES_NAMES = ("ndjson", "jsonl")
CYCLER_NAMES = ("nda", "ndax", "mpr", "res")  # binary files of cyclers

_MAGIC = (
    (b"PAR1", Format.PARQUET),
    (b"\x1f\x8b", Format.GZIP),
    (b"BZh", Format.BZIP2),
    (b"\xfd7zXZ\x00", Format.XZ),
    (b"NEWARE", Format.NDA),
    (b"BIO-LOGIC MODULAR FILE", Format.MPR),
    (b"\x00\x01\x00\x00Standard Jet DB\x00", Format.ACCESS),
    (b"\x00\x01\x00\x00Standard ACE DB\x00", Format.ACCESS),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Format.WORKBOOK),  # OLE: xls, or an encrypted xlsx
)
_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")

# What lies beside data and is none; everything else that cannot be read is reported.
_COMPANIONS = re.compile(
    r"(?:\..*|~\$.*|_success|thumbs\.db|desktop\.ini"
    r"|(?:readme|licen[cs]e|copying|changelog|citation|notice|manifest)(?:\.(?:txt|cff|in|rst))?"
    r"|.*\.bdf(?:\.[^.]+)*\.metadata\.json"  # describes a Battery Data Format file
    r"|.*\.(?:md|rst|pdf|docx?|pptx?|rtf|html?|png|jpe?g|gif|svg|md5|sha1|sha256|crc|url|lnk))",
    re.IGNORECASE,
)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def extension(name: str) -> str:
    """The name's last extension in lower case, without the dot."""
    return PurePosixPath(name).suffix.lower().lstrip(".")


def is_companion(path: str, skip: tuple[str, ...] = ()) -> bool:
    """Whether a file is none of the data: hidden, a note, a picture, or matching `skip`."""
    parts = path.replace("\\", "/").split("/")
    if "__MACOSX" in parts or _COMPANIONS.fullmatch(parts[-1]):
        return True
    return any(fnmatch.fnmatch(parts[-1], wanted) for wanted in skip)


def encoding_of(head: bytes) -> str:
    """The encoding that the first bytes of a text speak for, UTF-8 where nothing does."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    sample = head[:64]
    if len(sample) >= 4 and len(sample) % 2 == 0 and any(sample):
        if not any(sample[1::2]) and all(sample[0::2]):
            return "utf-16-le"
        if not any(sample[0::2]) and all(sample[1::2]):
            return "utf-16-be"
    return "utf-8"


def detect(head: bytes, name: str) -> Format:
    """The format of a file that begins with `head` (up to HEAD_BYTES) and is called `name`."""
    if not head:
        return Format.EMPTY
    suffix = extension(name)
    if head.startswith(_ZIP_MAGIC):
        # A workbook or .ndax without its extension is found when the archive is opened.
        if suffix == "ndax":
            return Format.NDAX
        return Format.WORKBOOK if suffix in WORKBOOK_NAMES else Format.ZIP
    for magic, found in _MAGIC:
        if head.startswith(magic):
            return found
    if suffix in LINES_NAMES:
        return Format.NDJSON
    encoding = encoding_of(head)
    if encoding == "utf-8":
        if suffix not in (*TEXT_NAMES, "json") and _CONTROL.search(head):
            return Format.UNKNOWN
        text = head.removeprefix(codecs.BOM_UTF8)
    else:
        usable = head[: len(head) // 2 * 2]
        text = usable.decode(encoding, "replace").lstrip("\ufeff").encode("utf-8", "replace")
    return _detect_text(text.lstrip(), suffix)


def _detect_text(text: bytes, suffix: str) -> Format:
    if text.startswith(b"{"):
        line, newline, _ = text.partition(b"\n")
        try:
            msgspec.json.decode(line)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return Format.JSON
        return Format.NDJSON if newline else Format.JSON
    if suffix == "json" or (text.startswith(b"[") and suffix not in TEXT_NAMES):
        return Format.JSON
    return Format.DELIMITED
