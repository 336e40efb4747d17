"""Reads JSON: a message a line, or one per object of a document."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pipeline.sources.formats.blocks import Block, blocks
from pipeline.sources.formats.content import Content, Messages, Outputs, Settings
from pipeline.sources.formats.detect import encoding_of
from pipeline.sources.formats.meter import Refused, over
from transforms.budget import TOO_LARGE


@dataclass(frozen=True)
class Span:
    """A byte range of a file with a message a line."""

    start: int
    end: int


def plan(content: Content, settings: Settings) -> list[Span]:
    """The byte ranges a large file is read in; none if it must be read in one go."""
    if _encoding(content).startswith("utf-16"):
        return []
    edges = [*range(0, content.size, settings.split_bytes), content.size]
    return [Span(start, end) for start, end in itertools.pairwise(edges)]


def read_lines(content: Content, settings: Settings, span: Span | None = None) -> Outputs:
    """Every line that is not blank as a message, its bytes as they are.

    A message's position is its line, or in a range that begins within the file its byte offset.
    """
    start, end = (span.start, span.end) if span is not None else (0, None)
    for block in blocks(
        content,
        start,
        end,
        aligned=start == 0,
        line=1 if start == 0 else None,
        encoding=_encoding(content),
    ):
        if block.too_long:
            yield content.letter(
                settings,
                TOO_LARGE,
                content.budget.over("message_kb", f"the line has {block.too_long:,} bytes"),
                position=block.position,
            )
            content.share.advance(block.too_long)
            continue
        payloads, positions = _split(block)
        for index in range(0, len(payloads), settings.batch_rows):
            part = payloads[index : index + settings.batch_rows]
            size = sum(map(len, part))
            yield Messages(content, part, positions[index : index + settings.batch_rows], size)
        content.share.advance(len(block.data))


def _encoding(content: Content) -> str:
    with content.open() as handle:
        return encoding_of(handle.read(64))


def _split(block: Block) -> tuple[list[bytes], list[str]]:
    data = block.data
    if block.offset == 0:
        data = data.removeprefix(codecs.BOM_UTF8)
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    if block.line is not None:
        positions = [f"line {number}" for number in range(block.line, block.line + len(lines))]
    else:
        offsets = itertools.accumulate((len(line) + 1 for line in lines), initial=block.offset)
        positions = [f"byte {offset}" for offset, _ in zip(offsets, lines, strict=False)]
    if b"\r" in data or data.startswith(b"\n") or b"\n\n" in data:
        kept = [
            (line.removesuffix(b"\r"), position)
            for line, position in zip(lines, positions, strict=True)
            if line.strip()
        ]
        return [line for line, _ in kept], [position for _, position in kept]
    return lines, positions


def read_document(content: Content, settings: Settings) -> Outputs:
    """An object as one message, or every item of an array; any other text is left to the decoder.

    A document is held in memory as a whole; what is too large for that belongs in lines.

    Where the document is broken, its lines may still be messages: a file of objects a line whose
    first one is cut off, for example.
    """
    data = content.read_all()
    encoding = encoding_of(data[:64])
    if encoding == "utf-8":
        data = data.removeprefix(codecs.BOM_UTF8)
    else:
        data = data.decode(encoding, "replace").removeprefix("\ufeff").encode()
    text = data.strip()
    if not text:
        raise Refused("empty_file", "the file holds white space only; remove it or send it again")
    items: Sequence[Any] = [data if data == text else text]
    if text.startswith(b"["):
        # Each comma may stand for an item, which takes some hundred bytes.
        if (commas := text.count(b",")) > content.budget.cells:
            raise over(content.budget, "cells", f"the array has {commas:,} values or fewer")
        try:
            items = msgspec.json.decode(text, type=list[msgspec.Raw])
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise Refused(
                "malformed_json",
                f"the file is no JSON array: {error}; it may be cut off, send it again",
            ) from None
    elif b"\n" in text and (lines := _objects_by_line(text)):
        items = lines
    for index in range(0, len(items), settings.batch_rows):
        part = [bytes(item) for item in items[index : index + settings.batch_rows]]
        positions = [f"record {index + number}" for number in range(1, len(part) + 1)]
        yield Messages(content, part, positions, sum(map(len, part)))


def _objects_by_line(text: bytes) -> list[bytes]:
    """The lines of a text that is no document but whose every line looks like an object."""
    try:
        msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        lines = [line.strip() for line in text.split(b"\n")]
        lines = [line for line in lines if line]
        if all(line.startswith(b"{") for line in lines):
            return lines
    return []
