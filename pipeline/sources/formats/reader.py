"""Reads one file of any format: finds out which it is, and makes a dead letter of a hopeless one."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial
from typing import Any

from apache_beam.io.filesystem import BeamIOError

from pipeline.errors import JobFailed, SourceFailed
from pipeline.sources.formats import (
    arbin_res,
    biologic_mpr,
    delimited,
    jsonlines,
    neware_nda,
    packed,
    parquet,
    workbook,
)
from pipeline.sources.formats.content import Content, Outputs, Settings
from pipeline.sources.formats.detect import (
    CYCLER_NAMES,
    HEAD_BYTES,
    WORKBOOK_NAMES,
    Format,
    detect,
    extension,
)
from pipeline.sources.formats.elements import sized
from pipeline.sources.formats.meter import Refused
from transforms.budget import MIB, TOO_LARGE

# Files up to this size are held in memory while they are read.
HELD_BYTES = 8 * MIB

# Binary files of cyclers, each read in one go.
_CYCLERS = {
    Format.NDA: neware_nda.read_nda,
    Format.NDAX: neware_nda.read_ndax,
    Format.MPR: biologic_mpr.read,
    Format.ACCESS: arbin_res.read,
}

Span = delimited.Span | jsonlines.Span | parquet.Span


def format_of(content: Content) -> Format:
    """The format of a file, from its first bytes and its name."""
    with content.open() as handle:
        return detect(handle.read(HEAD_BYTES), content.path)


def read(content: Content, settings: Settings, span: Span | None = None) -> Outputs:
    """Everything a file holds; never raises for what is wrong with the file itself.

    Raises:
        SourceFailed: where it lies can't be read now; the message names the file.
        SpillFailed: TMPDIR can't be used.
    """
    whole = content
    try:
        if span is None:
            content = held(content)
        for output in _read(content, settings, span):
            yield from sized(output)
    except Refused as refusal:
        yield content.refuse(settings, refusal)
    except JobFailed:  # not the file's fault
        raise
    except Exception as error:  # noqa: BLE001 - one file's error is not everybody's
        yield whole.refuse(settings, refusal_of(error, whole.path))
    content.share.finish()


# Errors that go with one file; other ones of the storage concern all of it.
_OF_ONE_FILE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


def refusal_of(error: Exception, path: str) -> Refused:
    """What to say of a file that an error came out of that nobody foresaw.

    Raises:
        SourceFailed: it is the storage's, and other files will meet it too.
    """
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, _OF_ONE_FILE):
        return Refused(
            "unreadable_file",
            f"it can't be opened ({error.strerror or text}); it may have been moved since, or this "
            "account may not read it",
        )
    if isinstance(error, MemoryError):
        return Refused(TOO_LARGE, "there is not enough memory to read it; cut it into parts")
    if isinstance(error, BeamIOError) or (isinstance(error, OSError) and error.errno):
        raise SourceFailed(
            f"{path} can't be read: {text}; check the disk or the network"
        ) from error
    return Refused(
        "unreadable_file",
        f"it can't be read ({text}); send it again, or convert it to CSV",
    )


def held(content: Content) -> Content:
    """A small file with its bytes in memory: opening one anew costs more, above all in a bucket."""
    if content.size > HELD_BYTES:
        return content
    return replace(content, open=partial(io.BytesIO, content.read_all()), seekable=True)


def plan(content: Content, settings: Settings) -> list[Any]:
    """The spans a large file can be read in; none if it must be read in one go.

    Raises:
        Exception: what is wrong with the file, which its reader will report.
    """
    found = format_of(content)
    if found is Format.DELIMITED:
        return list(delimited.plan(content, settings))
    if found is Format.NDJSON:
        return list(jsonlines.plan(content, settings))
    if found is Format.PARQUET:
        return list(parquet.plan(content, settings))
    return []


def _read(content: Content, settings: Settings, span: Span | None) -> Outputs:
    if isinstance(span, delimited.Span):
        yield from delimited.read(content, settings, span)
    elif isinstance(span, jsonlines.Span):
        yield from jsonlines.read_lines(content, settings, span)
    elif isinstance(span, parquet.Span):
        yield from parquet.read(content, settings, span)
    else:
        yield from _read_whole(content, settings)


def _read_whole(content: Content, settings: Settings) -> Outputs:
    found = format_of(content)
    if found is Format.EMPTY:
        raise Refused("empty_file", "the file has no bytes; send it again, or remove it")
    if found is Format.WORKBOOK:
        yield from workbook.read(content, settings)
    elif found is Format.ZIP:
        yield from _read_zip(content, settings)
    elif found is Format.PARQUET:
        yield from parquet.read(content, settings)
    elif found in _CYCLERS:
        yield from _CYCLERS[found](content, settings)
    elif found in (Format.GZIP, Format.BZIP2, Format.XZ):
        yield from _read_whole(packed.unpacked(content, found), settings)
    elif found is Format.NDJSON:
        yield from jsonlines.read_lines(content, settings)
    elif found is Format.JSON:
        yield from jsonlines.read_document(content, settings)
    elif found is Format.DELIMITED:
        try:
            yield from delimited.read(content, settings)
        except Refused as refusal:
            raise _misnamed(content) or refusal from None
    else:
        raise _misnamed(content) or Refused(
            "unsupported_format",
            "neither a workbook, zip, CSV, JSON, NDJSON, Parquet, .nda, .ndax, .mpr nor .res; convert "
            "it to one of these",
        )


def _read_zip(content: Content, settings: Settings) -> Outputs:
    with packed.opened_zip(content) as archive:
        if packed.is_workbook(archive):
            yield from workbook.read(content, settings)
            return
        if packed.is_ndax(archive):
            yield from neware_nda.read_ndax(content, settings)
            return
        for member in packed.members(archive, content, settings):
            yield from read(member, settings)


def _misnamed(content: Content) -> Refused | None:
    """What to say of a file that is not what its name says, and nothing else that is known."""
    suffix = extension(content.path)
    if suffix in WORKBOOK_NAMES:
        return Refused("corrupt_workbook", f"named .{suffix} but no workbook; send it again")
    if suffix == "zip":
        return Refused("not_a_zip", "named .zip but no zip archive; send it again")
    if suffix in CYCLER_NAMES:
        return Refused(
            "corrupt_file",
            f"named .{suffix} but its content is not of that format; copy it again",
        )
    if suffix == "parquet":
        return Refused("corrupt_parquet", "named .parquet but no Parquet file; send it again")
    return None
