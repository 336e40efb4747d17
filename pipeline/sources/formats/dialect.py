"""Finds out how a delimited text is written: delimiter, encoding, header, where its rows begin."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from pipeline.sources.formats import headers
from pipeline.sources.formats.blocks import Transcoded
from pipeline.sources.formats.detect import TEXT_NAMES, encoding_of, extension
from pipeline.sources.formats.head import read as read_head
from pipeline.sources.formats.meter import Refused
from transforms.interpret.interpretation import Head

_DELIMITERS = (",", ";", "\t", "|")
_SAMPLED_ROWS = 20
# Where nothing among the first lines is a header, protocols and notes may be longer than that.
_FIRST_LINES = 200
# Lines that are mostly digits are data.
_DIGITS = 0.4
_HEADER_LINES = re.compile(r"Nb header lines\s*:\s*(\d+)", re.IGNORECASE)
# Files of potentiostats that hold several tables, or none of a test: what to give instead.
_OTHERS = (
    ("Gamry (DTA)", re.compile(r"EXPLAIN$"), "export its curve as CSV with time in s, E/V and I/A"),
    ("ZView or Solartron", re.compile(r"ZPLOT|Z60W", re.IGNORECASE),
     "a spectrum without a test; export time in s, E/V and I/A as CSV"),
    ("VersaStudio", re.compile(r"<Application>$"), "export time in s, E/V and I/A as CSV"),
)  # fmt: skip
# What a text in a Chinese encoding holds besides ASCII.
_CHINESE = re.compile(
    r"[\u4e00-\u9fff\u3000-\u303f\uff00-\uffef\u03a9\u03bc\u2103\u00b0\u00b1\u00b7\u2126\u2161]+"
)

_PAIR = re.compile(rb"[\xa1-\xfe]{2}")


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
        head: what stands above the table.
        levels: headers of the levels above the rows, outermost first, where cycles, steps and
            records share one text (Neware); empty elsewhere.
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
    head: Head = field(default_factory=Head)
    levels: tuple[tuple[str, ...], ...] = ()

    @property
    def splittable(self) -> bool:
        """Whether a worker can begin anywhere in the file."""
        transcoded = self.encoding.startswith("utf-16") or self.carriage_returns
        return not transcoded and not self.quotes and not self.levels


def sniff(head: bytes, name: str, known: Collection[str] = ()) -> Dialect:
    """The dialect of the text that begins with `head`; raises Refused if it has no header.

    Args:
        head: its first bytes.
        name: the file's name.
        known: column names that the user says the file has.
    """
    encoding = encoding_of(head)
    carriage_returns = b"\r" in head and b"\n" not in head and encoding == "utf-8"
    if encoding != "utf-8" or carriage_returns:
        # From here on as the reader will see it, so that offsets agree.
        head = Transcoded(io.BytesIO(head), encoding, carriage_returns).read()
    raw_lines = head.split(b"\n")
    bom = raw_lines[0].startswith(codecs.BOM_UTF8)
    chinese = encoding == "utf-8" and not bom and _is_chinese(raw_lines)
    if chinese:
        encoding = "gb18030"
    seen = encoding if chinese else "utf-8"
    by_name = extension(name) in ("csv", "tsv", "bdf")
    found = _find(_texts(raw_lines, seen), by_name, frozenset(known))
    if found is None:
        raise _no_header(raw_lines, name, seen)
    index, delimiter = found
    raw_lines = raw_lines[: index + 2 + _SAMPLED_ROWS]
    if encoding == "utf-8" and not bom:
        encoding = _single_byte_if_needed(raw_lines[: index + 2])
    lines = _texts(raw_lines, "utf-8" if encoding.startswith("utf-16") else encoding)
    header = _cells(_uncommented(lines[index]), delimiter)
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
        head=read_head(lines[:index]),
        levels=_levels(lines, index, delimiter),
    )


# Comment signs that cyclers put before a header.
_COMMENT = "#~%"


def _uncommented(line: str) -> str:
    return line.lstrip(_COMMENT + " ") if line.lstrip()[:1] in _COMMENT else line


def _levels(lines: Sequence[str], index: int, delimiter: str) -> tuple[tuple[str, ...], ...]:
    """The headers above a header that begins with empty cells, each indented by one cell less."""
    indent = _indent(lines[index], delimiter)
    if not indent or indent > index:
        return ()
    above = [_cells(line, delimiter) for line in lines[index - indent : index]]
    if any(_indent(lines[index - indent + at], delimiter) != at for at in range(indent)):
        return ()
    return tuple(tuple(cells) for cells in above)


def _indent(line: str, delimiter: str) -> int:
    cells = _cells(line, delimiter)
    return next((at for at, cell in enumerate(cells) if cell.strip()), len(cells))


def _is_chinese(raw_lines: Sequence[bytes]) -> bool:
    """Whether no line beyond ASCII is UTF-8 and all of them are Chinese in GB18030.

    A Western sign before an ASCII letter, such as the degree in `°C`, is a pair of bytes that
    GB18030 has a rare character for; one alone between ASCII may be two umlauts. What decides are
    signs and words of two characters and more.
    """
    beyond = [line for line in raw_lines[:-1] or raw_lines if not line.isascii()]
    # The common characters are two bytes beyond ASCII. One alone is a sign of Latin-1 before a
    # letter, `°C` or `µA`, which GB18030 would make a rare character of.
    if not any(_PAIR.search(line) for line in beyond):
        return False
    chinese = western = 0
    for line in beyond:
        try:
            line.decode()
        except UnicodeDecodeError:
            pass
        else:
            return False
        try:
            text = line.decode("gb18030")
        except UnicodeDecodeError:
            return False
        for part in re.findall(r"[^\x00-\x7f]+", text):
            if not _CHINESE.fullmatch(part):
                return False
            pairs = [char.encode("gb18030") for char in part]
            western += sum(pair[1] < 0x80 for pair in pairs)
            if len(part) > 1 or not "\u4e00" <= part <= "\u9fff":
                chinese += sum(pair[1] >= 0xA1 for pair in pairs)
    return chinese > western


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


def _find(lines: Sequence[str], by_name: bool, known: frozenset[str]) -> tuple[int, str] | None:
    """Line and delimiter of the header: the first that names the most fields.

    One known name does in a file that says it is a table; running text must name two. A name in
    `known` counts like that of a field.
    """
    best: tuple[int, int, int] = (0, 0, 0)
    delimiter = ""
    least = 1 if by_name else 2
    told = _told_index(lines)
    for index, line in enumerate(lines):
        if told is not None and index != told:
            continue
        if index >= _FIRST_LINES and best[0] >= least:
            break
        if not line or sum(map(str.isdigit, line)) > _DIGITS * len(line):
            continue
        commented = line.lstrip()[:1] in _COMMENT
        bare = _uncommented(line)
        for candidate in _DELIMITERS:
            if candidate not in line:
                continue
            cells = _cells(bare, candidate)
            named = len(headers.fields_of(cells)) + len(known.intersection(map(str.strip, cells)))
            rank = (named, not commented, -index)
            if rank > best and rank[0] > 0:
                best, delimiter = rank, candidate
    if best[0] < least:
        return None
    return -best[2], delimiter


def _told_index(lines: Sequence[str]) -> int | None:
    """Where the file itself says that its header stands (BioLogic)."""
    for line in lines[:10]:
        if (found := _HEADER_LINES.search(line)) is not None:
            at = int(found[1]) - 1
            return at if 0 < at < len(lines) else None
    return None


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


def _no_header(raw_lines: Sequence[bytes], name: str, encoding: str) -> Refused:
    shown = raw_lines[0][:120].decode(encoding, "replace").strip()
    for maker, begins, instead in _OTHERS:
        if begins.match(shown):
            return Refused("unsupported_format", f"a file of {maker}; {instead}")
    if extension(name) in TEXT_NAMES or extension(name).isdigit():
        return Refused(
            "no_header",
            f"none of the first {len(raw_lines)} lines names a column that is known (the first "
            f"one is {shown!r}); add a header such as Date_Time,Current(A),Voltage(V), or say "
            "what the columns are with --dialect",
        )
    return Refused(
        "unsupported_format",
        f"text without a table or JSON (it begins with {shown!r}); supported are workbooks, zip, "
        "CSV, JSON, NDJSON and Parquet",
    )
