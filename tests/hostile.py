"""Small files that ask for a lot: of memory, of time, or of a library that can't cope with them."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.workbooks import xlsx

GOOD = (
    b"recorded_at,voltage_v,current_a\n2024-06-01T12:00:00Z,3.7,1.0\n2024-06-01T12:00:01Z,3.7,1.0\n"
)
LINE = b'{"equipment_id":"E","time":"2024-06-01T12:00:0%dZ","voltage":3.7,"current":1}\n'
MIB = 1 << 20


def packed(members: dict[str, bytes]) -> bytes:
    """A zip archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def many_rows(rows: int) -> bytes:
    """A table without any time, in a zip."""
    return packed({"a.csv": b"voltage_v,current_a\n" + b"3,1\n" * rows})


def json_array(items: int) -> bytes:
    """An array of tiny objects, in a zip."""
    return packed({"a.json": b"[" + b"{}," * items + b"{}]"})


def nested(depth: int, inner: bytes) -> bytes:
    """Archives in archives, four in each."""
    data = inner
    for level in range(depth):
        data = packed({f"{level}_{number}.zip": data for number in range(4)})
    return data


def overlapping(copies: int) -> bytes:
    """An archive whose directory names the same bytes many times."""
    data = packed({"a.csv": GOOD * 100})
    end = data.rfind(b"PK\x05\x06")
    size, place = struct.unpack_from("<II", data, end + 12)
    entry = data[place : place + size]
    counts = struct.pack("<HHII", copies, copies, size * copies, place)
    return data[:place] + entry * copies + data[end : end + 8] + counts + b"\x00\x00"


def name_not_utf8() -> bytes:
    """An archive with a name that claims to be UTF-8 and is not, and a good one beside it."""
    data = packed({"ä_x.csv": GOOD, "good.csv": GOOD})
    return data.replace("ä".encode(), b"\xff\xfe")


def long_line(megabytes: int) -> bytes:
    """Messages with an endless one among them, packed."""
    out = io.BytesIO()
    with gzip.open(out, "wb", 6) as file:
        file.write(LINE % 0 + b'{"equipment_id":"E","x":"')
        for _ in range(megabytes):
            file.write(b"A" * MIB)
        file.write(b"\n" + LINE % 1)
    return out.getvalue()


def endless_document(megabytes: int) -> bytes:
    """A JSON document that never ends, packed."""
    return gzip.compress(b'{"equipment_id":"E","x":"' + b"A" * (MIB * megabytes), 6)


def _readings(rows: int, **more: object) -> bytes:
    table = {
        "equipment_id": pa.array(["E"]).take(pa.array(np.zeros(rows, np.int64))),
        "time": pa.array(np.arange(rows) * 10**6 + 1_717_243_200_000_000).cast(
            pa.timestamp("us", tz="UTC")
        ),
        "voltage": np.full(rows, 3.7),
        "current": np.full(rows, 1.0),
        **more,
    }
    out = io.BytesIO()
    pq.write_table(pa.table(table), out, compression="zstd", store_schema=False)
    return out.getvalue()


def long_note(rows: int, length: int) -> bytes:
    """Parquet in which every row has the same long text, which is stored once."""
    codes = pa.array(np.zeros(rows, np.int32))
    return _readings(rows, note=pa.DictionaryArray.from_arrays(codes, pa.array(["A" * length])))


def wide(rows: int, columns: int, voltage: float) -> bytes:
    """Parquet with many columns that nobody knows."""
    unknown = {f"c{number}": np.full(rows, 1.5) for number in range(columns)}
    return _readings(rows, **{"voltage": np.full(rows, voltage), **unknown})


def constant(rows: int) -> bytes:
    """Parquet of two constant columns and no time."""
    out = io.BytesIO()
    table = pa.table({"voltage": np.full(rows, 3.7), "current": np.full(rows, 1.0)})
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


def odd_zone(zone: str) -> bytes:
    """Parquet whose times are in a zone that only its writer knows."""
    times = pa.array([1_717_243_200_000_000, 1_717_243_201_000_000])
    table = pa.table(
        {
            "equipment_id": ["E", "E"],
            "time": times.cast(pa.timestamp("us", tz=zone)),
            "seen": pa.array([[None], [None]], pa.list_(pa.timestamp("ns", tz=zone))),
            "voltage": [3.7, 3.7],
            "current": [1.0, 1.0],
        }
    )
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


_SHEET = b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'


def _with_sheet(sheet: bytes) -> bytes:
    """A workbook whose one sheet has other content."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(xlsx({"Channel_1": [["a"]]}))) as plain,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in plain.namelist():
            archive.writestr(name, sheet if "worksheets/sheet" in name else plain.read(name))
    return out.getvalue()


def far_cell(cell: str) -> bytes:
    """A workbook with two cells, the second far from the first."""
    cells = f'<row r="1"><c r="A1"><v>1</v></c></row><row><c r="{cell}"><v>1</v></c></row>'
    return _with_sheet(_SHEET + cells.encode() + b"</sheetData></worksheet>")


def long_sheet(rows: int) -> bytes:
    """A workbook of many rows that are all the same."""
    cells = b"<row>" + b"<c><v>1</v></c>" * 40 + b"</row>"
    return _with_sheet(_SHEET + cells * rows + b"</sheetData></worksheet>")


# What a name stands for: (file name, bytes, error types of its dead letters; none if it is read).
Hostile = tuple[str, Callable[[], bytes], tuple[str, ...]]
AT_USUAL_LIMITS: tuple[Hostile, ...] = (
    ("many_rows.zip", lambda: many_rows(40_000_000), ("too_large",)),
    ("json_array.zip", lambda: json_array(100_000_000), ("too_large",)),
    ("nested.zip", lambda: nested(2, many_rows(30_000_000)), ("too_large",)),
    ("overlap.zip", lambda: overlapping(60), ("corrupt_file",)),
    ("bad_name.zip", name_not_utf8, ()),
    ("long_line.ndjson.gz", lambda: long_line(60), ("too_large",)),
    ("long_line_and_more.ndjson.gz", lambda: long_line(200), ("too_large",)),
    ("endless.json.gz", lambda: endless_document(300), ("too_large",)),
    ("long_note.parquet", lambda: long_note(20_000, 130_000), ("too_large",)),
    ("wide_refused.parquet", lambda: wide(20_000, 1_500, 1e6), ("too_large", "out_of_range")),
    ("constant.parquet", lambda: constant(40_000_000), ("too_large",)),
    ("zone.parquet", lambda: odd_zone("GMT+02:00"), ()),
    ("far_cell.xlsx", lambda: far_cell("XFD1048576"), ("too_large",)),
    ("long_sheet.xlsx", lambda: long_sheet(500_000), ("too_large",)),
)
