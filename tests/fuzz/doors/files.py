"""The doors of files: each format's reader, through to validated readings."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.sources.formats import reader
from pipeline.sources.formats.content import Content, Messages, Settings, Summaries
from pipeline.sources.formats.messages import Packer
from schemas import profiles
from tests.cyclers import mpr, samples
from tests.fuzz.doors.door import CORPUS, Door, Taken, Unaccounted
from tests.workbooks import xlsx
from transforms import dead_letter
from transforms.batch import RawBatch
from transforms.decode import decode
from transforms.limits import Limits
from transforms.rejects import dead_letters
from transforms.validate import validate

ARRIVED_US = 1_717_243_200_000_000
NOW_US = 1_800_000_000_000_000
# What is said of a file and of nothing in it.
_CYCLERS = CORPUS.parents[2] / "data" / "cyclers"
_LONGEST_SEED = 24_000


@cache
def _limits() -> Limits:
    return Limits(profiles.load())


def judge(raw: RawBatch) -> Taken:
    """A batch's readings and dead letters, which have to be as many as its rows."""
    decoded, rejects = decode(raw)
    letters = 0
    if rejects.rows:
        letters += dead_letters(raw, rejects, "decode").num_rows
    readings = decoded.table.num_rows
    if readings + len(rejects.rows) != raw.table.num_rows:
        raise Unaccounted(f"{raw.table.num_rows} rows, {readings} read, {len(rejects.rows)} not")
    if readings:
        table, late = validate(decoded, _limits(), NOW_US)
        if table.num_rows + len(late.rows) != readings:
            raise Unaccounted(f"{readings} rows, {table.num_rows} valid, {len(late.rows)} not")
        if late.rows:
            letters += dead_letters(decoded.raw, late, "validate").num_rows
        readings = table.num_rows
    if letters + readings != raw.table.num_rows:
        raise Unaccounted(f"{raw.table.num_rows} rows, {readings} readings, {letters} letters")
    return Taken(readings, letters)


def run(name: str, data: bytes) -> Taken:
    """Reads a file as the job does."""
    settings = Settings("fuzz")
    content = Content(
        path=name, source_file=name, equipment_id="cell", arrived_at_us=ARRIVED_US,
        size=len(data), open=partial(io.BytesIO, data),
    )  # fmt: skip
    packer = Packer(settings)
    readings = refused = said = 0
    letters: list[Any] = []

    def take(raw: RawBatch) -> None:
        nonlocal readings, refused
        taken = judge(raw)
        readings, refused = readings + taken.readings, refused + taken.refused

    for output in reader.read(content, settings):
        if isinstance(output, Messages):
            for batch in packer.add(output):
                take(batch)
        elif isinstance(output, RawBatch):
            take(output)
        elif isinstance(output, Summaries):
            said += 1
        else:
            letters.append(output)
    for batch in packer.flush():
        take(batch)
    if letters:
        refused += dead_letter.table(letters).num_rows
    return Taken(readings + said, refused)


def _texts() -> list[bytes]:
    paths = [
        path for path in sorted(_CYCLERS.rglob("*")) if path.is_file() and path.suffix != ".md"
    ]
    plain = b"time,voltage,current\n" + b"".join(
        b"2024-06-01T12:00:%02dZ,3.7,%d\n" % (second, second % 3 - 1) for second in range(40)
    )
    quoted = plain.replace(b"3.7", b'"3,7"').replace(b",", b";")
    found = [_first_lines(path.read_bytes()) for path in paths]
    return [plain, quoted, plain.decode().encode("utf-16"), *found]


def _first_lines(data: bytes) -> bytes:
    return data if len(data) <= _LONGEST_SEED else data[: data.rfind(b"\n", 0, _LONGEST_SEED) + 1]


def _messages() -> list[bytes]:
    reading = (
        b'{"equipment_id":"c","recorded_at":"2024-06-01T12:00:%02dZ","voltage_v":3.7,"current_a":1,'
        b'"test_time_s":%d,"note":{"a":[1,null,"x"]}}\n'
    )
    other = (
        b'{"Cell ID":"B","Timestamp":1717243200.5,"Voltage(mV)":3700,"I [mA]":-5,"Temp":"25,5"}\n'
    )
    return [
        b"".join(reading % (second, second) for second in range(30)),
        other * 3 + reading % (1, 1),
    ]


def _documents() -> list[bytes]:
    lines = [line for text in _messages() for line in text.splitlines()]
    return [b"[" + b",\n".join(lines[:12]) + b"]", lines[0], lines[-1], b"\n".join(lines[:5])]


def _table() -> pa.Table:
    rows = 50
    return pa.table(
        {
            "Date_Time": pa.array(np.arange(rows) * 10**6 + ARRIVED_US, pa.timestamp("us")),
            "Test_Time(s)": np.arange(rows, dtype=float),
            "Voltage(V)": np.linspace(3, 4, rows),
            "Current(A)": pa.array(np.sin(np.arange(rows)), pa.float32()),
            "Cycle_Index": pa.array(np.arange(rows) // 10, pa.int16()),
            "Cell": pa.array(["a", "b"] * 25).dictionary_encode(),
            "tags": [[1, 2], None] * 25,
            "more": [{"x": 1}, None] * 25,
        }
    )


def _parquets() -> list[bytes]:
    found = []
    for options in ({}, {"compression": "none", "use_dictionary": False}, {"row_group_size": 7}):
        sink = io.BytesIO()
        pq.write_table(_table(), sink, **options)
        found.append(sink.getvalue())
    return found


_ROWS = [["Date_Time", "Test_Time(s)", "Voltage(V)", "Current(A)", "Cycle_Index"]] + [
    [f"2024-06-01 12:00:{second:02d}", float(second), 3.7, 0.5, second // 20]
    for second in range(60)
]


def _workbooks() -> list[bytes]:
    return [
        xlsx({"Channel_1-008": _ROWS}),
        xlsx({"Info": [["a", 1]], "Channel_1": _ROWS[:9], "Channel_2": _ROWS[:9], "log": []}),
        _ods(),
    ]


def _ods() -> bytes:
    cells = "".join(
        "<table:table-row>"
        + "".join(
            f'<table:table-cell office:value-type="float" office:value="{cell}"/>'
            if isinstance(cell, float | int)
            else f'<table:table-cell office:value-type="string"><text:p>{cell}</text:p></table:table-cell>'
            for cell in row
        )
        + "</table:table-row>"
        for row in _ROWS[:20]
    )
    spaces = " ".join(
        f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
        for name in ("office", "table", "text")
    )
    content = (
        f"<office:document-content {spaces}><office:body><office:spreadsheet>"
        f'<table:table table:name="Channel_1">{cells}</table:table>'
        "</office:spreadsheet></office:body></office:document-content>"
    )
    kind = "application/vnd.oasis.opendocument.spreadsheet"
    return _zip({"mimetype": kind.encode(), "content.xml": content.encode()})


def _zip(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in members.items():
            packed.writestr(zipfile.ZipInfo(name, (2024, 6, 1, 12, 0, 0)), data)
    return out.getvalue()


def _zips() -> list[bytes]:
    text, message = _texts()[0], _messages()[0]
    return [
        _zip({"CS2_35/CS2_35_8_18_10.csv": text, "CS2_35/x_Wb_1.csv": text, "b.ndjson": message}),
        _zip({"a.zip": _zip({"deep.csv": text}), "a.csv.gz": gzip.compress(text, mtime=0)}),
        _zip({"book.xlsx": _workbooks()[0], "t.parquet": _parquets()[0], "README.md": b"x"}),
    ]


def unzip(data: bytes) -> list[bytes]:
    """The members' contents; nothing where it is no archive."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return [archive.read(info) for info in archive.infolist()]
    except Exception:
        return []


def rezip(data: bytes, parts: list[bytes]) -> bytes:
    """The archive with other contents under the same names."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [info.filename for info in archive.infolist()]
    return _zip(dict(zip(names, parts, strict=True)))


def _gunzip(data: bytes) -> list[bytes]:
    try:
        return [gzip.decompress(data)]
    except (OSError, EOFError, zlib.error):
        return []


def _gzip(_: bytes, parts: list[bytes]) -> bytes:
    return gzip.compress(parts[0], 1, mtime=0)


def _mprs() -> list[bytes]:
    columns = [(1, ""), (2, ""), (4, "<f8"), (6, "<f4"), (8, "<f4"), (24, "<f8")]
    rows = [[3, second * 1.0, 3.7, 500.0, 0.0] for second in range(30)]
    return [mpr(columns, rows, version, 45_000.5) for version in (2, 3, 11)]


def _samples(*names: str) -> list[bytes]:
    """Files that lie outside the repository, where they are at hand."""
    paths = [samples() / name for name in names]
    return [path.read_bytes() for path in paths if path.is_file()]


def _kept(name: str) -> list[bytes]:
    path = CORPUS / name
    return [gzip.decompress(path.read_bytes())] if path.is_file() else []


def _ndas() -> list[bytes]:
    """Heads that pass for a file's: the first record behind a head of a known version."""
    found = _samples("neware.nda")
    head = bytearray(b"NEWARE" + bytes(4090))
    head[14:16] = struct.pack("<H", 29)
    return [*found, bytes(head), bytes(head[:14]) + struct.pack("<H", 130) + bytes(8000)]


def _ndaxes() -> list[bytes]:
    version = b'<?xml version="1.0" encoding="GB2312"?><root><config ServerVer="V1"/></root>'
    small = _zip({"VersionInfo.xml": version, "Step.xml": version, "data.ndc": bytes(5000)})
    return [*_samples("neware.ndax"), small]


def _accesses() -> list[bytes]:
    return _kept("arbin.res.gz") or [b"\x00\x01\x00\x00Standard Jet DB\x00" + bytes(8192)]


def _door(name: str, file: str, seeds: Any, **more: Any) -> Door:
    return Door(name, partial(run, file), seeds, **more)


_UNITS = [b"mA", b"(mV)", b"Voltage", b"Current", b"Cycle ID", b"Date_Time", b"Step", b"State"]
_ZIPPED = {"unpack": unzip, "pack": rezip}
DOORS: Sequence[Door] = (
    _door("delimited", "lab/cell_A.csv", _texts, words=_UNITS, unsaid=True),
    _door("ndjson", "lab/cell_A.ndjson", _messages, words=_UNITS),
    _door("json", "lab/cell_A.json", _documents, words=_UNITS),
    _door("parquet", "lab/cell_A.parquet", _parquets),
    _door("workbook", "lab/cell_A.xlsx", _workbooks, words=[b'r="XFD9"', b"<c "], unsaid=True, **_ZIPPED),
    _door("zip", "lab/cells.zip", _zips, unsaid=True, **_ZIPPED),
    _door("gz", "lab/cell_A.csv.gz", lambda: [gzip.compress(t, 1, mtime=0) for t in _texts()],
          unpack=_gunzip, pack=_gzip, unsaid=True),
    _door("nda", "lab/cell_A.nda", _ndas),
    _door("ndax", "lab/cell_A.ndax", _ndaxes, **_ZIPPED),
    _door("mpr", "lab/cell_A.mpr", _mprs),
    _door("res", "lab/cell_A.res", _accesses),
    # By no name: its first bytes say what it is.
    Door("unnamed", partial(run, "lab/unnamed"),
         lambda: [s for make in (_texts, _documents, _parquets, _zips, _mprs) for s in make()[:2]], unsaid=True),
)  # fmt: skip
