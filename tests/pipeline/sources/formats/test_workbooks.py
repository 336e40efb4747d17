"""Tests the reading of workbooks."""

from __future__ import annotations

import datetime as dt
import io
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.sources.formats.workbook import to_table
from tests.calce import calce_dir
from tests.pipeline.sources.reading import read, read_file
from tests.workbooks import xlsx

HEADER = ["Data_Point", "Date_Time", "Current(A)", "Voltage(V)"]
T0 = dt.datetime(2010, 8, 18, 23, 59, 30)  # noqa: DTZ001  # workbooks know no zones


def rows(first: int, count: int) -> list[list[Any]]:
    return [[n, T0 + dt.timedelta(seconds=30 * n), 0.5, 3.7] for n in range(first, first + count)]


def test_data_sheets_continue_one_another(tmp_path: Path) -> None:
    data = xlsx(
        {
            "Info": [["TEST REPORT", "Voltage(V)", "Current(A)"]],
            "channel_1-008": [HEADER, *rows(1, 3)],
            "Channel_Chart": [HEADER, *rows(1, 3)],
            "Channel_1-008_1": [HEADER, *rows(4, 2)],
            "Statistics_1-008": [HEADER, *rows(1, 1)],
        }
    )
    found = read_file(tmp_path, "CS2_35/CS2_35_8_18_10.xlsx", data, batch_rows=2)
    (batch,) = found.batches
    assert batch.table.column_names == HEADER
    assert batch.table["Data_Point"].to_pylist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert batch.table.schema.field("Date_Time").type == pa.timestamp("us")
    # The first row is exactly at midnight, where calamine gives a date.
    assert batch.table["Date_Time"].to_pylist() == [row[1] for row in rows(1, 5)]
    assert batch.origin.equipment_id == "CS2_35"
    start = rows(1, 1)[0][1].replace(tzinfo=dt.UTC)
    assert batch.origin.test_start_us == round(start.timestamp() * 1e6)
    assert batch.origin.source_file == "CS2_35/CS2_35_8_18_10.xlsx"


def test_sheets_of_several_channels_are_several_cells(tmp_path: Path) -> None:
    by_cycle = [["Cycle_Index", "Charge_Capacity(Ah)", "Vmax_On_Cycle(V)", "Charge_Time(s)"]]
    data = xlsx(
        {
            "Channel_1-007": [HEADER, *rows(1, 3)],
            "Channel_1-008_1": [HEADER, *rows(1, 2)],
            "Channel_1-008_2": [HEADER, *rows(3, 2)],
            "Statistics_1-008": [*by_cycle, [1, 1.0, 4.2, 3600.0], [2, 0.9, 4.2, 3600.0]],
        }
    )
    found = read_file(tmp_path, "batch_5/batch_5_1.xlsx", data)
    cells = [(b.origin.equipment_id, b.table.num_rows, b.origin.first_row) for b in found.batches]
    assert cells == [("batch_5_1-007", 3, 1), ("batch_5_1-008", 4, 4)]
    (summary,) = found.summaries
    assert set(summary.table["equipment_id"].to_pylist()) == {"batch_5_1-008"}


TIMED = ["Time (s)", "Voltage (V)", "Current (A)"]


def timed(first: int, count: int) -> list[list[Any]]:
    return [[30.0 * n, 3.7, 0.5] for n in range(first, first + count)]


def test_sheets_that_each_start_over_are_several_cells_and_it_is_told(tmp_path: Path) -> None:
    data = xlsx({"Cell A": [TIMED, *timed(0, 3)], "Cell B": [TIMED, *timed(0, 3)]})
    found = read_file(tmp_path, "lab/lab_5.xlsx", data)
    cells = [(batch.origin.equipment_id, batch.table.num_rows) for batch in found.batches]
    assert cells == [("lab_Cell A", 3), ("lab_Cell B", 3)]
    for batch in found.batches:
        assert batch.origin.reading is not None
        assert "identity_guessed" in batch.origin.reading.disagreements


def test_sheets_whose_clock_runs_on_are_one_cell(tmp_path: Path) -> None:
    data = xlsx({"1": [TIMED, *timed(0, 3)], "2": [TIMED, *timed(3, 3)]})
    (batch,) = read_file(tmp_path, "lab/lab_5.xlsx", data).batches
    assert batch.table.num_rows == 6


def test_a_plan_of_steps_is_no_measurement() -> None:
    plan = [
        ["Step Index", "Step Name", "Step Time(hh:mm:ss)", "Voltage(V)", "Current(A)"],
        [1, "CC Chg", "01:00:00", 4.2, 0.5],
    ]
    table = to_table(xlsx({"test": plan, "record": [HEADER, *rows(1, 2)]}))
    assert table.column_names == HEADER
    assert table.num_rows == 2


def test_sheets_with_other_columns_or_without_header_continue_too() -> None:
    wider = [[*HEADER, "Aux"], [3, T0, 0.5, 3.7, "x"]]
    table = to_table(xlsx({"Channel_1": [HEADER, *rows(1, 2)], "Channel_2": wider}))
    assert table["Aux"].to_pylist() == [None, None, "x"]
    assert table["Data_Point"].to_pylist() == [1.0, 2.0, 3.0]
    table = to_table(xlsx({"Channel_1": [HEADER, *rows(1, 2)], "Channel_1_1": rows(3, 2)}))
    assert table["Data_Point"].to_pylist() == [1.0, 2.0, 3.0, 4.0]


def test_cells_of_every_kind_keep_their_value() -> None:
    body = [
        ["Voltage(V)", "Current(A)", "mixed", "text", "flag", "Voltage(V)", None, "gap"],
        [3.7, 1, 1.5, "a", True, 1, None, 1.0],
        [None] * 8,
        [3.8, 2, "high", "b", False, 2, None, None],
        [3.9, 3, T0, "c", True, 3, None, 3.0],
        [4.0, 4, 2, "d", True, 4, None, True],
    ]
    table = to_table(xlsx({"Channel_1": body}))
    assert table.to_pydict() == {
        "Voltage(V)": [3.7, 3.8, 3.9, 4.0],
        "Current(A)": [1.0, 2.0, 3.0, 4.0],
        "mixed": ["1.5", "high", "2010-08-18 23:59:30", "2"],
        "text": ["a", "b", "c", "d"],
        "flag": [True, False, True, True],
        "Voltage(V)_2": [1.0, 2.0, 3.0, 4.0],
        "gap": ["1", None, "3", "True"],
    }
    assert table.schema.field("Voltage(V)").type == pa.float64()


def test_serial_noise_is_rounded_to_milliseconds() -> None:
    times = [T0 + dt.timedelta(milliseconds=7 * n, microseconds=n % 3 - 1) for n in range(50)]
    body = [HEADER, *([n, time, 1.0, 3.7] for n, time in enumerate(times))]
    read_times = to_table(xlsx({"Channel_1": body}))["Date_Time"].to_pylist()
    assert all(time.microsecond % 1000 == 0 for time in read_times)
    assert all(
        abs(a - b) < dt.timedelta(milliseconds=1) for a, b in zip(times, read_times, strict=True)
    )


def test_header_below_a_title_and_units_below_the_header() -> None:
    body = [["Report"], [], ["Voltage", "Current"], ["mV", "mA"], [3700, 5]]
    assert to_table(xlsx({"Channel_1": body})).to_pylist() == [
        {"Voltage(mV)": 3700.0, "Current(mA)": 5.0}
    ]


def test_sheets_of_other_names_are_found_by_their_columns() -> None:
    table = to_table(
        xlsx({"notes": [["a"]], "cycle": [["Cycle", "Capacity"]], "record": [HEADER, *rows(1, 2)]})
    )
    assert table.num_rows == 2


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("a.xlsx", xlsx({"Info": [["a"]], "Notes": [["b"]]}), "no_data_sheet"),
        ("a.xlsx", xlsx({"Channel_1": [["a", "b"], [1, 2]]}), "no_header"),
        ("a.xlsx", xlsx({"Channel_1": [HEADER, *rows(1, 9)]})[:700], "corrupt_workbook"),
        ("a.xlsx", b"PK\x03\x04nonsense", "corrupt_workbook"),
        ("a.xlsx", b"\0" * 500, "corrupt_workbook"),
        ("a.xlsx", b"<html>log in</html>", "corrupt_workbook"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "corrupt_workbook"),
        ("a.xlsx", b"", "empty_file"),
    ],
)
def test_what_cannot_be_read_is_one_dead_letter(
    tmp_path: Path, name: str, data: bytes, error: str
) -> None:
    found = read_file(tmp_path, name, data)
    assert found.batches == [] and found.errors == [error]
    letter = found.letters[0]
    assert letter["payload"] == data
    if error == "no_data_sheet":
        assert "Info, Notes" in letter["error_message"]


def test_open_document_sheets() -> None:
    spaces = " ".join(
        f'xmlns:{kind}="urn:oasis:names:tc:opendocument:xmlns:{kind}:1.0"'
        for kind in ("office", "table", "text", "manifest")
    )
    names, numbers = (
        "".join(f"<table:table-cell office:value-type={cell}</table:table-cell>" for cell in row)
        for row in (
            [f'"string"><text:p>{name}</text:p>' for name in ("Voltage(V)", "Current(A)")],
            [f'"float" office:value="{value}">' for value in (3.7, 1)],
        )
    )
    content = (
        f"<office:document-content {spaces}><office:body><office:spreadsheet>"
        f'<table:table table:name="Channel_1"><table:table-row>{names}</table:table-row>'
        f"<table:table-row>{numbers}</table:table-row></table:table>"
        "</office:spreadsheet></office:body></office:document-content>"
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        packed.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        packed.writestr("META-INF/manifest.xml", f"<manifest:manifest {spaces}/>")
        packed.writestr("content.xml", content)
    assert to_table(out.getvalue()).to_pylist() == [{"Voltage(V)": 3.7, "Current(A)": 1.0}]


def test_an_empty_data_sheet_is_no_error(tmp_path: Path) -> None:
    found = read_file(tmp_path, "a.xlsx", xlsx({"Channel_1": [HEADER]}))
    assert found.batches == [] and found.errors == []


def test_a_workbook_is_told_by_its_content_and_so_is_a_table_named_like_one(
    tmp_path: Path,
) -> None:
    found = read_file(tmp_path, "a.bin", xlsx({"Channel_1": [HEADER, *rows(1, 3)]}))
    assert len(found.rows) == 3
    found = read_file(tmp_path, "b/a.xls", b"Voltage(V)\tCurrent(A)\n3.7\t1\n")
    assert found.rows == [{"Voltage(V)": "3.7", "Current(A)": "1"}]


def test_calce() -> None:
    found = read(calce_dir() / "CS2_35.zip")
    assert len(found.batches) == 25 and found.errors == []
    assert sum(batch.table.num_rows for batch in found.batches) == 266_914
    assert {batch.origin.equipment_id for batch in found.batches} == {"CS2_35"}
    assert len(found.summaries) == 15  # the workbooks that have a sheet of statistics
    for batch in found.batches:
        kinds = {field.name: field.type for field in batch.table.schema}
        assert kinds.pop("Date_Time") == pa.timestamp("us")
        assert set(kinds.values()) == {pa.float64()}
        assert len(kinds) == 16
