"""Reads tables of an Access database (Jet 4, and its successor ACE): the fixed columns at once.

A database is pages of 4,096 bytes. The layout is the one that Jackcess (Apache-2.0) implements and
mdbtools documents in its file HACKING; offsets below are within a page, numbers little-endian.

- page 0: version at 20; from 24 on 128 bytes masked with RC4, in them at 62 the encoding key. With
  a key other than 0, page n is RC4-encoded under key XOR n.
- page type 1, data: owner at 4, number of rows at 12, from 14 on each row's start. Rows fill the
  page from its end; a row's start carries the bits deleted (0x8000) and moved (0x4000: there lie
  four bytes that point to the row, its number and its page).
- page type 2, table: next page at 4, number of rows at 16, of columns at 45, of indexes at 51, the
  pages it owns at 55; 12 bytes an index, 25 bytes a column, the columns' names.
- a row: number of columns (2 bytes), fixed columns at their offsets, variable ones, their starts
  in reverse, their number, and a bit a column that is 0 where the value is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.sources.formats.meter import Refused

PAGE = 4096
_CATALOG = 2  # the page of the table that lists all tables
_MASK_KEY = b"\xc7\xda\x39\x6b"
_DELETED, _MOVED, _OFFSET = 0x8000, 0x4000, 0x1FFF
_BOOLEAN, _TEXT = 1, 10
_TYPES = {2: "u1", 3: "<i2", 4: "<i4", 6: "<f4", 7: "<f8", 8: "<f8"}
_BLOCK = 2048  # pages that are decoded or read at a time: what that needs stays in the cache
_JET3, _JET4, _LAST_ACE = 0, 1, 5

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Column:
    """A column of a table: its name, type, number and place in a row."""

    name: str
    kind: int
    number: int
    fixed: bool
    offset: int  # of a fixed column: in the row after the number of columns
    variable: int  # of a variable column: which of them it is


@dataclass(frozen=True)
class Values:
    """A column's values, and where they are missing."""

    data: npt.NDArray[np.generic]
    missing: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Rows:
    """Where rows lie in the pages that were read: start and end as offsets in `pages` flattened."""

    pages: Bytes
    start: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]


class Table:
    """A table's definition, and its values on demand."""

    def __init__(self, base: Database, number: int) -> None:
        self._base = base
        self._number = number
        definition = base.definition(number)
        self.expected = _number(definition, 16, 4)
        self.columns = _columns(definition)
        try:
            pages = base.owned(_number(definition, 55, 1), _number(definition, 56, 3))
            found = self._count(pages)
        except Refused:
            found = 0
        if found < self.expected:
            # The map may be wrong; each page says itself whose it is.
            pages = base.all_pages()
            found = self._count(pages)
        if found < self.expected:
            raise truncated(f"a table has {found} of its {self.expected} rows")
        self._pages = pages

    def read(self, names: Sequence[str]) -> dict[str, Values]:
        """The values of some fixed columns, by name.

        Raises:
            Refused: a row that cannot be.
        """
        wanted = [column for column in self.columns if column.name in names]
        parts: dict[str, list[Values]] = {column.name: [] for column in wanted}
        for rows in self._rows(self._pages):
            for column in wanted:
                parts[column.name].append(_fixed(rows, column))
        return {
            name: Values(
                np.concatenate([part.data for part in values] or [np.zeros(0)]),
                np.concatenate([part.missing for part in values] or [np.zeros(0, bool)]),
            )
            for name, values in parts.items()
        }

    def texts(self, name: str) -> list[str | None]:
        """The values of a text column, in the order of `read`; for small tables."""
        column = next((each for each in self.columns if each.name == name), None)
        if column is None:
            return []
        found = []
        for rows in self._rows(self._pages):
            flat = rows.pages.reshape(-1)
            for start, end in zip(rows.start.tolist(), rows.end.tolist(), strict=True):
                found.append(_text(flat[start:end].tobytes(), column))
        return found

    def _count(self, pages: npt.NDArray[np.int64]) -> int:
        return sum(len(rows.start) for rows in self._rows(pages))

    def _rows(self, pages: npt.NDArray[np.int64]) -> Iterator[_Rows]:
        """The table's rows on some pages, a few pages at a time: they are copies."""
        for at in range(0, len(pages), _BLOCK):
            yield from self._base.rows(pages[at : at + _BLOCK], self._number)


class Database:
    """An Access database in memory."""

    def __init__(self, data: bytes) -> None:
        """Checks the first page.

        Raises:
            Refused: too short, of an unknown version, or encrypted in a way that is not Jet's.
        """
        if len(data) < (_CATALOG + 1) * PAGE:
            raise truncated("it is shorter than an empty database")
        if len(data) % PAGE:
            raise truncated("its size is no multiple of a page's")
        self._pages = np.frombuffer(data, np.uint8).reshape(-1, PAGE)
        version = data[20]
        if version == _JET3:
            raise Refused(
                "unsupported_variant",
                "the database is of Access 97 (Jet 3); save it as Access 2000 or later, or export "
                "the test as xlsx or csv",
            )
        if not _JET4 <= version <= _LAST_ACE:
            raise Refused(
                "unsupported_variant",
                f"the database's version {version} is not known; export the test as xlsx or csv",
            )
        mask = _keystreams(np.frombuffer(_MASK_KEY, np.uint8)[:, None], 128)[:, 0]
        head = self._pages[0, 24:152] ^ mask
        self._key = int.from_bytes(head[38:42].tobytes(), "little")
        if self._key and version != _JET4:
            raise Refused(
                "encrypted_file",
                "the database is encrypted with a password; save it without one, or export the "
                "test as xlsx or csv",
            )

        if self._key:
            self._pages = self._decoded()
        self.tables = self._catalog()

    def _catalog(self) -> dict[str, int]:
        """The page of each user's table by its name."""
        catalog = Table(self, _CATALOG)
        numbers = catalog.read(("Id", "Type"))
        names = catalog.texts("Name")
        if not {"Id", "Type"} <= numbers.keys() or len(names) != len(numbers["Id"].data):
            raise corrupt("its list of tables cannot be read")
        return {
            name: page & 0xFFFFFF
            for name, page, kind in zip(
                names, numbers["Id"].data.tolist(), numbers["Type"].data.tolist(), strict=True
            )
            if name and not name.startswith("MSys") and kind == 1 and page & 0xFFFFFF > _CATALOG
        }

    def table(self, name: str) -> Table | None:
        """A table of that name, or None."""
        page = self.tables.get(name)
        return None if page is None else Table(self, page)

    def _decoded(self) -> Bytes:
        numbers = np.arange(len(self._pages), dtype="<u4")
        keys = (numbers ^ np.uint32(self._key)).view(np.uint8).reshape(-1, 4)
        pages = self._pages.copy()
        for at in range(1, len(pages), _BLOCK):
            pages[at : at + _BLOCK] ^= _keystreams(keys[at : at + _BLOCK].T, PAGE).T
        return pages

    def page(self, number: int) -> bytes:
        """A page."""
        if number >= len(self._pages):
            raise truncated(f"it speaks of page {number} and has {len(self._pages)}")
        data: bytes = self._pages[number].tobytes()
        return data

    def all_pages(self) -> npt.NDArray[np.int64]:
        """The numbers of all pages."""
        return np.arange(len(self._pages))

    def definition(self, number: int) -> bytes:
        """A table's definition, whose pages are chained."""
        parts: list[bytes] = []
        seen: set[int] = set()
        while number:
            page = self.page(number)
            if page[0] != 2 or number in seen:
                raise corrupt(f"page {number} does not hold the definition of a table")
            parts.append(page if not parts else page[8:])
            seen.add(number)
            number = _number(page, 4, 4)
        return b"".join(parts)

    def owned(self, row: int, page: int) -> npt.NDArray[np.int64]:
        """The pages that a usage map names, in their order."""
        data = self._row(page, row)
        if not data or data[0] > 1:
            raise corrupt("the list of a table's pages cannot be read")
        if data[0] == 0:
            return _set_bits(data[5:]) + _number(data, 1, 4)
        maps = [_number(data, at, 4) for at in range(1, len(data) - 3, 4)]
        each = (PAGE - 4) * 8
        last = max((at for at, number in enumerate(maps) if number), default=0)
        if last * each >= len(self._pages):
            raise truncated(f"it speaks of page {last * each} and has {len(self._pages)}")
        found = [
            _set_bits(self.page(number)[4:]) + at * each for at, number in enumerate(maps) if number
        ]
        return np.concatenate(found or [np.zeros(0, np.int64)])

    def rows(self, numbers: npt.NDArray[np.int64], owner: int) -> list[_Rows]:
        """Where a table's rows lie on some pages; rows that were moved come after the others.

        Pages of other kinds and tables are passed over: maps name such ones too.
        """
        numbers = numbers[numbers < len(self._pages)]
        head = np.ascontiguousarray(self._pages[numbers, :16])
        own = (head[:, 0] == 1) & (head[:, 4:8].view("<u4")[:, 0] == owner)
        pages, head = self._pages[numbers[own]], head[own]
        counts = head[:, 12:14].view("<u2")[:, 0].astype(np.int64)
        if (counts > (PAGE - 14) // 2).any():
            raise corrupt("a page has more rows than room")
        page = np.repeat(np.arange(len(pages)), counts)
        place = np.arange(len(page)) - np.repeat(np.cumsum(counts) - counts, counts)
        flat = pages.reshape(-1)
        at = page * PAGE + 14 + 2 * place
        raw = flat[at].astype(np.int64) | flat[at + 1].astype(np.int64) << 8
        start = raw & _OFFSET
        end = np.where(place == 0, PAGE, np.roll(start, 1))
        if len(start) and ((start > end) | (start < 14)).any():
            raise corrupt("a row lies outside its page")
        live = (raw & (_DELETED | _MOVED)) == 0
        found = [_Rows(pages, (page * PAGE + start)[live], (page * PAGE + end)[live])]
        moved = np.flatnonzero((raw & (_DELETED | _MOVED)) == _MOVED)
        for index in moved.tolist():
            begin = page[index] * PAGE + start[index]
            pointer = flat[begin : begin + 4].tobytes()
            row = self._row(_number(pointer, 1, 3), pointer[0])
            copy = np.frombuffer(row, np.uint8)[None, :]
            found.append(_Rows(copy, np.array([0]), np.array([len(row)])))
        return found

    def _row(self, page: int, row: int) -> bytes:
        """One row's bytes, whatever its page says of it but that it was moved again."""
        data = self.page(page)
        if data[0] != 1 or row >= _number(data, 12, 2):
            raise corrupt(f"there is no row {row} on page {page}")
        raw = _number(data, 14 + 2 * row, 2)
        start = raw & _OFFSET
        end = _number(data, 12 + 2 * row, 2) & _OFFSET if row else PAGE
        if raw & _MOVED or not 14 <= start <= end <= PAGE:
            raise corrupt(f"row {row} of page {page} lies outside it")
        return data[start:end]


def truncated(why: str) -> Refused:
    """The refusal of a database whose end is missing."""
    return Refused(
        "truncated_file", f"the Access database is cut off: {why}; close the test and copy it again"
    )


def corrupt(why: str) -> Refused:
    """The refusal of a database that contradicts itself."""
    return Refused(
        "corrupt_file",
        f"the Access database cannot be read: {why}; copy it again, or compact it with Access",
    )


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")


def _set_bits(data: bytes) -> npt.NDArray[np.int64]:
    return np.flatnonzero(np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little"))


def _columns(definition: bytes) -> list[Column]:
    count, indexes = _number(definition, 45, 2), _number(definition, 51, 4)
    at = 63 + 12 * indexes
    names_at = at + 25 * count
    if names_at > len(definition):
        raise corrupt("the definition of a table ends early")
    columns = []
    for index in range(count):
        entry = definition[at + 25 * index : at + 25 * (index + 1)]
        length = _number(definition, names_at, 2)
        name = definition[names_at + 2 : names_at + 2 + length].decode("utf-16-le", "replace")
        names_at += 2 + length
        if names_at > len(definition):
            raise corrupt("the definition of a table ends early")
        columns.append(
            Column(
                name,
                kind=entry[0],
                number=_number(entry, 5, 2),
                fixed=bool(entry[15] & 1),
                offset=_number(entry, 21, 2),
                variable=_number(entry, 7, 2),
            )
        )
    return columns


def is_number(column: Column) -> bool:
    """Whether `Table.read` can read a column."""
    return column.fixed and (column.kind in _TYPES or column.kind == _BOOLEAN)


def _fixed(rows: _Rows, column: Column) -> Values:
    """One fixed column of the rows; a row from before the column was added lacks it."""
    flat, count = rows.pages.reshape(-1), len(rows.start)
    if count and (rows.end - rows.start < 2).any():
        raise corrupt("a row is shorter than its head")
    width = flat[rows.start].astype(np.int64) | flat[rows.start + 1].astype(np.int64) << 8
    has = width > column.number
    at = rows.end - (width + 7) // 8 + column.number // 8
    if (at[has] < rows.start[has]).any():
        raise corrupt("a row is shorter than its columns")
    bit = flat[np.where(has, at, rows.start)] >> np.uint8(column.number % 8) & np.uint8(1)
    has &= bit == 1
    if column.kind == _BOOLEAN:
        return Values(has, np.zeros(count, bool))
    kind = np.dtype(_TYPES[column.kind])
    begin = rows.start + 2 + column.offset
    if (begin[has] + kind.itemsize > rows.end[has]).any():
        raise corrupt("a row is shorter than its columns")
    places = np.where(has, begin, 0)[:, None] + np.arange(kind.itemsize)
    data = flat[places].view(kind)[:, 0] if count else np.zeros(0, kind)
    return Values(data, ~has)


def _text(row: bytes, column: Column) -> str | None:
    """One variable text of a row."""
    width = _number(row, 0, 2)
    nulls = (width + 7) // 8
    if column.kind != _TEXT or column.fixed or width <= column.number or len(row) < nulls + 4:
        return None
    if not row[len(row) - nulls + column.number // 8] >> column.number % 8 & 1:
        return None
    at = len(row) - nulls - 2
    count = _number(row, at, 2)
    if column.variable >= count or at - 2 * (count + 1) < 0:
        return None
    start = _number(row, at - 2 * (column.variable + 1), 2)
    end = _number(row, at - 2 * (column.variable + 2), 2)
    return _unicode(row[start:end])


def _unicode(data: bytes) -> str:
    """A text of two bytes a character; after FF FE, runs of one byte a character, 00 between."""
    if not data.startswith(b"\xff\xfe"):
        return data.decode("utf-16-le", "replace")
    text, at, short = "", 2, True
    while at < len(data):
        # In a run of two bytes a character, a zero ends it only where a character would begin.
        end = at
        while end < len(data) and data[end] != 0:
            end += 1 if short else 2
        run = data[at:end]
        text += run.decode("latin-1") if short else run.decode("utf-16-le", "replace")
        at, short = end + 1, not short
    return text


def _keystreams(keys: Bytes, length: int) -> Bytes:
    """RC4's streams for keys side by side: `keys` is (bytes, keys), the result (length, keys).

    All keys advance together, as each one's steps depend on one another and can't be vectorised.
    """
    count = keys.shape[1]
    lane = np.arange(count)
    state = np.repeat(np.arange(256, dtype=np.uint8)[:, None], count, axis=1)
    j = np.zeros(count, np.uint8)
    for i in range(256):
        at = state[i].copy()
        j += at + keys[i % len(keys)]
        state[i] = state[j, lane]
        state[j, lane] = at
    j[:] = 0
    stream = np.empty((length, count), np.uint8)
    for step in range(length):
        i = (step + 1) & 255
        at = state[i].copy()
        j += at
        other = state[j, lane]
        state[i] = other
        state[j, lane] = at
        stream[step] = state[at + other, lane]
    return stream
