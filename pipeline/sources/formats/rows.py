"""Parses a block of delimited lines: the rows that fit as a table, the others one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from pipeline.sources.formats.blocks import Block
from pipeline.sources.formats.dialect import Dialect

# Encodings whose line ends are those of ASCII, so that blocks can be cut before decoding.
SINGLE_LINES = ("latin-1", "gb18030")


@dataclass(frozen=True)
class BadLine:
    """A line that is no row of the table.

    `position` is its line number, or where that is not known the block's byte offset and the
    line's number in the block. `text` is None where it was too long to be held.
    """

    text: bytes | None
    position: str
    error_type: str
    message: str


@dataclass(frozen=True)
class Parsed:
    """A block's rows, every value as text (null where it is empty), and its bad lines."""

    table: pa.Table
    bad: list[BadLine] = field(default_factory=list)
    size: int = 0


@dataclass(frozen=True)
class _Invalid:
    number: int
    columns: int
    text: str


def parse(block: Block, dialect: Dialect, columns: list[str] | None = None) -> Parsed:
    """The rows of a block; with `columns`, only those columns of them."""
    data = block.data
    if dialect.encoding in SINGLE_LINES:
        data = data.decode(dialect.encoding, "replace").encode()
    data, bad = _without_bad_text(block, data)
    try:
        table, invalid = _read(data, dialect, columns)
        swallowed = b'"' in data and _swallows(data, table, invalid, dialect)
    except pa.ArrowInvalid:  # what else than quotes could confuse it
        swallowed = True
    if swallowed:
        table, invalid = _read(data, dialect, columns, quoted=False)
    bad += _bad_widths(block, data, dialect, invalid)
    return Parsed(_only_rows(table, dialect, columns), bad, len(block.data))


def _read(
    data: bytes, dialect: Dialect, columns: list[str] | None, quoted: bool = True
) -> tuple[pa.Table, list[_Invalid]]:
    invalid: list[_Invalid] = []

    def skip(row: pa_csv.InvalidRow) -> str:
        invalid.append(_Invalid(row.number or 0, row.actual_columns, row.text))
        return "skip"

    names = list(dialect.names)
    table = pa_csv.read_csv(
        pa.BufferReader(data or b"\n"),
        # One thread, because only then are rows numbered; one block, so that no line is too long.
        read_options=pa_csv.ReadOptions(
            column_names=names, use_threads=False, block_size=len(data) + 1
        ),
        parse_options=pa_csv.ParseOptions(
            delimiter=dialect.delimiter,
            quote_char='"' if quoted else False,
            newlines_in_values=quoted and b'"' in data,
            invalid_row_handler=skip,
        ),
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=columns,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
            check_utf8=False,  # it was checked already
        ),
    )
    return table, invalid


def _without_bad_text(block: Block, data: bytes) -> tuple[bytes, list[BadLine]]:
    """The data with lines that are not UTF-8 blanked, so that the others keep their numbers.

    This comes first because the parser drops a row silently that has both a wrong number of
    values and bad bytes.
    """
    if data.isascii():
        return data, []
    try:
        data.decode()
    except UnicodeDecodeError:
        pass
    else:
        return data, []
    lines = data.split(b"\n")
    bad = []
    for index, line in enumerate(lines):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            message = f"byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8"
            bad.append(BadLine(line, _position(block, index), "bad_encoding", message))
            lines[index] = b""
    return b"\n".join(lines), bad


def _swallows(data: bytes, table: pa.Table, invalid: list[_Invalid], dialect: Dialect) -> bool:
    """Whether a quote that is never closed has taken whole rows into one value."""
    lines = data.count(b"\n")
    if table.num_rows + len(invalid) >= lines:
        return False
    separators = len(dialect.names) - 1
    holders = [item.text for item in invalid if "\n" in item.text]
    for column in table.columns:
        mask = pc.fill_null(pc.match_substring(column, "\n"), False)
        holders += column.filter(mask).to_pylist()
    return any(
        line.count(dialect.delimiter) == separators
        for text in holders
        for line in text.split("\n")[1:]
    )


def _bad_widths(
    block: Block, data: bytes, dialect: Dialect, invalid: list[_Invalid]
) -> list[BadLine]:
    """The lines with too few or too many values; comments are none."""
    found = [item for item in invalid if not item.text.lstrip().startswith("#")]
    if not found:
        return []
    lines = data.split(b"\n")
    numbered = [index for index, line in enumerate(lines) if line not in (b"", b"\r")]
    bad = []
    for item in found:
        index = numbered[min(item.number, len(numbered)) - 1]
        message = (
            f"the line has {item.columns} values and the header {len(dialect.names)}; it may be "
            "cut off, or a value holds the delimiter without being quoted"
        )
        text = item.text.encode("utf-8", "replace")
        bad.append(BadLine(text, _position(block, index), "wrong_column_count", message))
    return bad


def _position(block: Block, index: int) -> str:
    if block.line is not None:
        return f"line {block.line + index}"
    return f"byte {block.offset} line {index + 1}"


def _only_rows(table: pa.Table, dialect: Dialect, columns: list[str] | None) -> pa.Table:
    """The table without repeated headers, empty rows and columns that are nothing."""
    if not table.num_rows:
        return table
    for cells in dialect.repeats:
        wanted = dict(zip(dialect.names, cells, strict=False))
        tests = [
            partial(_equals, table[name], wanted.get(name, "")) for name in columns or dialect.names
        ]
        if (repeated := _all(tests)) is not None:
            table = table.filter(pc.invert(repeated))
    if columns is None:
        if all(column.null_count for column in table.columns):
            empty = _all([partial(pc.is_null, column) for column in table.columns])
            if empty is not None:
                table = table.filter(pc.invert(empty))
        nothing = [name for name in dialect.nameless if table[name].null_count == table.num_rows]
        table = table.drop_columns(nothing)
    return table


def _equals(column: pa.ChunkedArray, text: str) -> pa.ChunkedArray:
    if not text:
        return pc.is_null(column)
    return pc.fill_null(pc.equal(column, text), False)


def _all(tests: Sequence[Callable[[], pa.ChunkedArray]]) -> pa.ChunkedArray | None:
    """Where every test is true; None, found early, if that is nowhere."""
    result = None
    for test in tests:
        result = test() if result is None else pc.and_(result, test())
        if not pc.any(result).as_py():
            return None
    return result
