"""Tests the reading of CSV in the dialects that cyclers write."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.sources.formats import blocks as blocks_module
from pipeline.sources.formats import delimited
from pipeline.sources.formats.content import Content
from tests.pipeline.sources.reading import Found, read, read_file
from transforms.batch import BatchKind
from transforms.decode import decode

HEADER = "Date_Time,Test_Time(s),Current(A),Voltage(V)"
START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def lines(count: int) -> list[str]:
    return [
        f"{START + dt.timedelta(seconds=n):%Y-%m-%d %H:%M:%S},{n}.5,0.5,{3 + n / 1000:.3f}"
        for n in range(count)
    ]


def csv(count: int) -> bytes:
    return "\n".join([HEADER, *lines(count), ""]).encode()


def volts(found: Found) -> list[str]:
    return found.column("Voltage(V)")


def test_every_value_stays_text_and_empty_ones_are_null(tmp_path: Path) -> None:
    data = b"Date_Time,Current(A),Voltage(V),note\n2024-01-01,007,3.50,\n2024-01-02,,3.6,NA\n"
    found = read_file(tmp_path, "CS2_33/CS2_33_1_2_11.csv", data)
    assert found.rows == [
        {"Date_Time": "2024-01-01", "Current(A)": "007", "Voltage(V)": "3.50", "note": None},
        {"Date_Time": "2024-01-02", "Current(A)": None, "Voltage(V)": "3.6", "note": "NA"},
    ]
    batch = found.batches[0]
    assert batch.kind is BatchKind.ROWS
    assert batch.origin.source == "test"
    assert batch.origin.source_file == "CS2_33/CS2_33_1_2_11.csv"
    assert batch.origin.equipment_id == "CS2_33"
    assert batch.origin.first_row == 1
    # Decided for the whole file, so that it is the same however the file is cut.
    assert batch.origin.test_start_us == 1_704_067_200_000_000  # 2024-01-01
    modified = (tmp_path / "CS2_33" / "CS2_33_1_2_11.csv").stat().st_mtime
    assert batch.origin.arrived_at_us == int(modified * 1_000_000)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("Time(s);Current(A);Voltage(V)\n1,5;0,5;3,7\n", ["3,7"]),
        ("Time(s)\tCurrent(A)\tVoltage(V)\n1\t0.5\t3.7\n", ["3.7"]),
        ("Time(s)|Current(A)|Voltage(V)\n1|0.5|3.7\n", ["3.7"]),
        ("Test: x\nOperator, A\n\nTime(s),Current(A),Voltage(V)\n1,2,3.7\n", ["3.7"]),
        ("\ufeffVoltage(V),Current(A)\n3.7,1\n", ["3.7"]),
        ("# by X\n# Voltage(V), Current(A)\n3.7,1\n# a note\n3.8,1\n", ["3.7", "3.8"]),
        ('"Voltage(V)","Current(A)",n\n"3.7","1","a,""b"\n', ["3.7"]),
        ("Voltage(V),Current(A),\n3.7,1,\n", ["3.7"]),
        ("Voltage(V),Current(A)\n3.7,1,\n3.8,2,\n", ["3.7", "3.8"]),
        ("Voltage(V),Current(A),\n3.7,1\n", ["3.7"]),
        ("Voltage(V),Current(A)\n3.7,1\nVoltage(V),Current(A)\n3.8,1\n", ["3.7", "3.8"]),
        ("Voltage(V),Current(A)\r\n3.7,1\r\n\r\n3.8,1\r\n", ["3.7", "3.8"]),
        ("Voltage(V),Current(A)\r3.7,1\r3.8,1\r", ["3.7", "3.8"]),
        ("Voltage(V),Current(A)\n3.7,1\n,\n\n3.8,1", ["3.7", "3.8"]),
        ('Voltage(V),Current(A),note\n3.7,1,"two\nlines"\n3.8,1,x\n', ["3.7", "3.8"]),
    ],
)
def test_dialects(tmp_path: Path, data: str, expected: list[str]) -> None:
    found = read_file(tmp_path, "a.csv", data.encode())
    assert found.errors == []
    assert volts(found) == expected


def test_trailing_delimiter_makes_no_column(tmp_path: Path) -> None:
    found = read_file(tmp_path, "a.csv", b"Voltage(V),Current(A)\n3.7,1,\n")
    assert list(found.rows[0]) == ["Voltage(V)", "Current(A)"]


def test_units_below_the_header(tmp_path: Path) -> None:
    found = read_file(
        tmp_path, "a.csv", b"Test Time;Voltage;Current;Step\ns;mV;[mA];\n1;3700;5;1\n"
    )
    assert found.rows == [
        {"Test Time(s)": "1", "Voltage(mV)": "3700", "Current(mA)": "5", "Step": "1"}
    ]


def test_names_twice_and_with_spaces(tmp_path: Path) -> None:
    found = read_file(tmp_path, "a.csv", b" Voltage / V ,Current / A,Current / A\n3.7,1,2\n")
    assert list(found.rows[0]) == ["Voltage / V", "Current / A", "Current / A_2"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "latin-1"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    text = "Voltage(V),Current(A),Temperature(°C),note\n3.7,1,25,größer\n3.8,1,26,µ\n"
    found = read_file(tmp_path, "a.csv", text.encode(encoding))
    assert found.errors == []
    assert found.column("Temperature(°C)") == ["25", "26"]
    assert found.column("note") == ["größer", "µ"]


def test_signs_of_latin_1_before_a_letter_make_no_chinese_text(tmp_path: Path) -> None:
    # 0xB0 0x43 (°C) and 0xB5 0x41 (µA) would each be one rare character in GB18030
    text = "Voltage(V),Current(µA),Temperature(°C)\n3.7,1,25\n3.8,1,26\n"
    found = read_file(tmp_path, "a.csv", text.encode("latin-1"))
    assert list(found.rows[0]) == ["Voltage(V)", "Current(µA)", "Temperature(°C)"]


def test_chinese_text_is_found_beside_a_unit_of_its_own(tmp_path: Path) -> None:
    text = "电压(V),电流(μA),温度(℃)\n3.7,1,25\n3.8,1,26\n"
    found = read_file(tmp_path, "a.csv", text.encode("gb18030"))
    assert list(found.rows[0]) == ["电压(V)", "电流(μA)", "温度(℃)"]


def test_wrong_column_count_is_a_dead_letter_with_its_line(tmp_path: Path) -> None:
    data = b"title\nVoltage(V),Current(A)\n3.7,1\n\n3.8\n3.9,1\n4.0,1,2\n4.1,1\n4."
    found = read_file(tmp_path, "x/a.csv", data)
    assert volts(found) == ["3.7", "3.9", "4.1"]
    assert found.errors == ["wrong_column_count"] * 3
    assert [letter["payload"] for letter in found.letters] == [b"3.8", b"4.0,1,2", b"4."]
    assert [letter["position"] for letter in found.letters] == ["line 5", "line 7", "line 9"]
    letter = found.letters[0]
    assert letter["step"] == "read" and letter["source_file"] == "x/a.csv"
    assert letter["equipment_id"] == "a" and letter["source"] == "test"


def test_bad_bytes_refuse_only_their_rows(tmp_path: Path) -> None:
    rows = [line.encode() for line in lines(50)]
    rows[10] = b"2024-01-01 00:00:10,\xff,0.5,3.7"
    rows[20] = b"\xfe,1"
    found = read_file(tmp_path, "a.csv", b"\n".join([HEADER.encode(), *rows]))
    assert len(found.rows) == 48
    assert found.errors == ["bad_encoding", "bad_encoding"]
    assert found.letters[0]["payload"] == rows[10]
    assert [letter["position"] for letter in found.letters] == ["line 12", "line 22"]


def test_nul_bytes_and_long_lines(tmp_path: Path) -> None:
    long = b"x" * 10_000_000
    data = (
        b"Voltage(V),Current(A),n\n3.7,1,\x00\n\x00\x00\x00\n3.8,1," + long + b"\n3.9,1,\n" + long
    )
    found = read_file(tmp_path, "a.csv", data)
    assert volts(found) == ["3.7", "3.8", "3.9"]
    assert found.errors == ["wrong_column_count"] * 2
    assert found.letters[0]["payload"] == b"\x00\x00\x00"
    assert found.letters[1]["payload"] is None and "10000000" in found.letters[1]["error_message"]


def test_a_quote_that_is_never_closed_takes_no_rows(tmp_path: Path) -> None:
    data = b'Voltage(V),Current(A),note\n3.7,1,a\n3.8,1,"oops\n3.9,1,b\n4.0,1,c\n'
    found = read_file(tmp_path, "a.csv", data)
    assert volts(found) == ["3.7", "3.8", "3.9", "4.0"]


@pytest.mark.parametrize("data", [b"Voltage(V),Current(A)", b"Voltage(V),Current(A)\n\n", b"V\n"])
def test_a_header_alone_is_no_error_but_no_header_is(tmp_path: Path, data: bytes) -> None:
    found = read_file(tmp_path, "a.csv", data)
    assert found.batches == []
    assert found.errors == ([] if data.startswith(b"Voltage") else ["no_header"])


def test_text_without_a_table(tmp_path: Path) -> None:
    text = b"Dear all,\nthe voltage, as ever, is high.\n"
    assert read_file(tmp_path, "a.txt", text).errors == ["no_header"]
    found = read_file(tmp_path, "a.xyz", text)
    assert found.errors == ["unsupported_format"] and found.letters[0]["payload"] == text


def test_batches_of_one_file_share_the_test_start(tmp_path: Path) -> None:
    shuffled = lines(100)[50:] + lines(50)
    data = "\n".join([HEADER, *shuffled]).encode()
    found = read_file(tmp_path, "a.csv", data, batch_rows=30)
    # The rows of the last moment may travel apart: more of it might have come.
    assert [batch.table.num_rows for batch in found.batches][:3] == [30, 30, 30]
    assert [batch.origin.first_row for batch in found.batches][:4] == [1, 31, 61, 91]
    assert len(found.rows) == 100
    expected = int(START.timestamp() * 1_000_000)
    assert {batch.origin.test_start_us for batch in found.batches} == {expected}


def test_time_zone_moves_the_test_start(tmp_path: Path) -> None:
    found = read_file(tmp_path, "a.csv", csv(100), batch_rows=30, time_zone="America/New_York")
    expected = int((START + dt.timedelta(hours=5)).timestamp() * 1_000_000)
    assert found.batches[0].origin.test_start_us == expected


def test_without_absolute_time_the_file_is_one_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 500)
    data = b"Test_Time(s),Current(A),Voltage(V)\n" + b"1,2,3\n" * 1000
    for size in (100, 10**6):
        found = read_file(tmp_path, "a.csv", data, batch_rows=30, split_bytes=size)
        assert [batch.table.num_rows for batch in found.batches] == [1000]
        assert found.batches[0].origin.test_start_us is None


@pytest.mark.parametrize("block", [40, 64, 300, 5000])
def test_blocks_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(delimited, "BLOCK_BYTES", block)
    found = read_file(tmp_path, "a.csv", csv(200))
    assert volts(found) == [line.rsplit(",", 1)[1] for line in lines(200)]
    found.check_origins()
    for note in (b'"a\nb ""c"" \n"', b'5"', b'"a, ""b"""'):
        data = b"Voltage(V),Current(A),note\n" + b"3.7,1," + note + b"\n3.8,1,x\n"
        found = read_file(tmp_path, "q.csv", data + data[27:] * 50)
        assert volts(found) == ["3.7", "3.8"] * 51 and found.errors == []


def test_byte_ranges_at_every_size_give_the_same_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(csv(40).replace(b"\n", b"\n\n", 3) + b"short\n" + lines(1)[0].encode())
    whole = read(path)
    assert len(whole.rows) == 41
    for size in range(1, path.stat().st_size + 1, 7):
        found = read(path, split_bytes=size)
        assert found.rows == whole.rows
        assert found.errors == ["wrong_column_count"]
        found.check_origins()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    text=st.lists(st.text("ab\r", max_size=6), max_size=12),
    ends=st.booleans(),
    cuts=st.sets(st.integers(0, 80), max_size=6),
    size=st.integers(1, 20),
)
def test_ranges_cover_every_line_once(
    text: list[str], ends: bool, cuts: set[int], size: int
) -> None:
    data = ("\n".join(text) + ("\n" if ends else "")).encode()
    content = Content("a", "a", None, 0, len(data), lambda: io.BytesIO(data))
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [
        block
        for start, end in itertools.pairwise(edges)
        for block in blocks_module.blocks(content, start, end, aligned=start == 0, block_bytes=size)
    ]
    assert b"".join(block.data for block in pieces) == data
    for block in pieces:
        assert data[block.offset : block.offset + len(block.data)] == block.data
        assert block.data.endswith(b"\n") or block.offset + len(block.data) == len(data)


def test_gzip_is_read_as_it_unpacks_and_a_cut_one_is_reported(tmp_path: Path) -> None:
    packed = gzip.compress(csv(5000))
    found = read_file(tmp_path, "C1/C1_1_2_11.csv.gz", packed)
    assert len(found.rows) == 5000 and found.errors == []
    assert found.batches[0].origin.equipment_id == "C1"
    many = gzip.compress(csv(100_000), 1)
    for batch_rows in (1000, 10**6):
        cut = many[: len(many) // 2]
        found = read_file(tmp_path, "a.csv.gz", cut, batch_rows=batch_rows)
        assert found.errors == ["truncated_file"]
        count = len(found.rows)
        assert count > 30_000
        assert volts(found) == [line.rsplit(",", 1)[1] for line in lines(count)]
    found = read_file(tmp_path, "a.csv.gz", packed[:-9] + b"\0" + packed[-8:])
    assert found.errors in (["corrupt_file"], ["truncated_file"])


def test_files_of_potentiostats_are_named_with_what_to_give_instead(tmp_path: Path) -> None:
    gamry = b"EXPLAIN\r\nTAG\tCHRONOP\r\nCURVE\tTABLE\t1\r\n\tPt\tT\tVf\tIm\r\n\t0\t0\t3.7\t1\r\n"
    found = read_file(tmp_path, "a.DTA", gamry)
    assert found.errors == ["unsupported_format"]
    assert "Gamry" in found.letters[0]["error_message"]
    assert "CSV" in found.letters[0]["error_message"]


def test_a_clock_that_is_no_number_is_refused_with_what_it_may_be(tmp_path: Path) -> None:
    text = "Test Time,Voltage(V),Current(A)\n0:00.0,3.7,1\n60:01.0,3.8,1\n"
    (batch,) = read_file(tmp_path, "a.csv", text.encode()).batches
    _, refused = decode(batch)
    assert {message for _, _, message in refused.rows.values()} == {
        "Test Time must be a number or a duration such as 1:02:03"
    }
