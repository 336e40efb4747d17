"""Finds out how a delimited text is written: delimiter, encoding, header, where its rows begin."""

from __future__ import annotations

import codecs
import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.sources.formats import headers
from pipeline.sources.formats.blocks import Transcoded
from pipeline.sources.formats.content import Refused
from pipeline.sources.formats.detect import TEXT_NAMES, encoding_of, extension

_DELIMITERS = (",", ";", "\t", "|")
_SAMPLED_ROWS = 20


@dataclass(frozen=True)
class Dialect:
    """How a delimited text is written.

    Attributes:
        delimiter: what separates the values.
        names: unique column names, one a value of a row.
        nameless: those of `names` whose column has none in the file.
        repeats: rows that are no data where they occur again: header and units.
        data_start: offset of the first data row, in bytes.
        first_line: its line number, counted from 1.
        encoding: of the text.
        carriage_returns: its lines end in a carriage return alone.
        quotes: quote signs occur near the beginning, so a value may hold a line end. Where they
            occur further down only, a value with a line end just where a block or part ends
            becomes dead letters, never a wrong row.
    """

    delimiter: str
    names: tuple[str, ...]
    nameless: tuple[str, ...]
    repeats: tuple[tuple[str, ...], ...]
    data_start: int
    first_line: int
    encoding: str
    carriage_returns: bool
    quotes: bool

    @property
    def splittable(self) -> bool:
        """Whether a worker can begin anywhere in the file."""
        transcoded = self.encoding.startswith("utf-16") or self.carriage_returns
        return not transcoded and not self.quotes


def sniff(head: bytes, name: str) -> Dialect:
    """The dialect of the text that begins with `head`; raises Refused if it has no header."""
    encoding = encoding_of(head)
    carriage_returns = b"\r" in head and b"\n" not in head and encoding == "utf-8"
    if encoding != "utf-8" or carriage_returns:
        # From here on as the reader will see it, so that offsets agree.
        head = Transcoded(io.BytesIO(head), encoding, carriage_returns).read()
    raw_lines = head.split(b"\n")[: headers.SEARCHED_ROWS + _SAMPLED_ROWS]
    bom = raw_lines[0].startswith(codecs.BOM_UTF8)
    found = _find(_texts(raw_lines, "utf-8"), extension(name) in ("csv", "tsv", "bdf"))
    if found is None:
        raise _no_header(raw_lines, name)
    index, delimiter = found
    if encoding == "utf-8" and not bom:
        encoding = _single_byte_if_needed(raw_lines[: index + 2])
    lines = _texts(raw_lines, "utf-8" if encoding.startswith("utf-16") else encoding)
    commented = lines[index].lstrip().startswith("#")
    header = _cells(lines[index].lstrip("# ") if commented else lines[index], delimiter)
    repeats = [tuple(_cells(lines[index], delimiter))]
    rows_at = index + 1
    names = headers.unique_names(header)
    rows = [_cells(line, delimiter) for line in lines[rows_at:] if line.strip()]
    if rows and (named := headers.with_units(names, rows[0])) is not None:
        # Where the file ends in the unit row there is nothing else it could be either.
        repeats.append(tuple(rows[0]))
        names = headers.unique_names(named)
        rows_at += 1 + next(i for i, line in enumerate(lines[rows_at:]) if line.strip())
        rows = rows[1:]
    names, nameless = _fit(names, header, rows[:_SAMPLED_ROWS])
    return Dialect(
        delimiter=delimiter,
        names=tuple(names),
        nameless=nameless,
        repeats=tuple(repeats),
        data_start=min(sum(len(line) + 1 for line in raw_lines[:rows_at]), len(head)),
        first_line=rows_at + 1,
        encoding=encoding,
        carriage_returns=carriage_returns,
        quotes=b'"' in head,
    )


def _texts(raw_lines: Sequence[bytes], encoding: str) -> list[str]:
    lines = [line.rstrip(b"\r").decode(encoding, "replace") for line in raw_lines]
    lines[0] = lines[0].removeprefix("\ufeff")
    return lines


def _single_byte_if_needed(raw_lines: Sequence[bytes]) -> str:
    """Latin-1 if the header (or what stands above it) is not UTF-8.

    Bad bytes further down do not change the encoding: they make their row a dead letter.
    """
    try:
        for line in raw_lines:
            line.decode()
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return line.split(delimiter)


def _find(lines: Sequence[str], by_name: bool) -> tuple[int, str] | None:
    """Line and delimiter of the header: the first that names the most fields.

    One known name does in a file that says it is a table; running text must name two.
    """
    best: tuple[int, int, int] = (0, 0, 0)
    delimiter = ""
    for index, line in enumerate(lines[: headers.SEARCHED_ROWS]):
        commented = line.lstrip().startswith("#")
        for candidate in _DELIMITERS:
            if candidate not in line:
                continue
            cells = _cells(line.lstrip("# ") if commented else line, candidate)
            rank = (len(headers.fields_of(cells)), not commented, -index)
            if rank > best and rank[0] > 0:
                best, delimiter = rank, candidate
    if best[0] < (1 if by_name else 2):
        return None
    return -best[2], delimiter


def _fit(
    names: list[str], header: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[list[str], tuple[str, ...]]:
    """Adds or takes away a last, nameless column where only header or rows end in a delimiter."""
    usual = Counter(len(row) for row in rows).most_common(1)
    width = usual[0][0] if usual else len(names)
    if width == len(names) + 1 and all(not row[-1].strip() for row in rows if len(row) == width):
        names = [*names, f"column_{width}"]
        header = [*header, ""]
    elif width == len(names) - 1 and not header[-1].strip():
        names, header = names[:-1], header[:-1]
    pairs = zip(names, header, strict=True)
    return names, tuple(name for name, cell in pairs if not cell.strip())


def _no_header(raw_lines: Sequence[bytes], name: str) -> Refused:
    shown = raw_lines[0][:120].decode("utf-8", "replace").strip()
    if extension(name) in TEXT_NAMES:
        return Refused(
            "no_header",
            f"no line among the first {headers.SEARCHED_ROWS} names a column that is known (the "
            f"first one is {shown!r}); add a header such as Date_Time,Current(A),Voltage(V)",
        )
    return Refused(
        "unsupported_format",
        f"text without a table or JSON (it begins with {shown!r}); supported are workbooks, zip, "
        "CSV, JSON, NDJSON and Parquet",
    )
