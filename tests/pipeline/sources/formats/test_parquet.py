"""Tests the reading of Parquet: any table, and the lake's own files."""

from __future__ import annotations

import datetime as dt
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.forms import arrow_schema
from schemas.reading import CYCLE_SUMMARY, READING
from tests.fuzz.doors.door import CORPUS
from tests.pipeline.sources.reading import read, read_file
from transforms import dead_letter
from transforms.batch import MESSAGES, BatchKind
from transforms.budget import USUAL
from transforms.dead_letter import DeadLetter

T0 = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def parquet(table: pa.Table, **options: int) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


def cycler(count: int, timed: bool = True) -> pa.Table:
    columns = {"Voltage(V)": [3.7 + n / 1e6 for n in range(count)], "Current(A)": [1.0] * count}
    if timed:
        columns["Date_Time"] = [T0 + dt.timedelta(seconds=n) for n in range(count)]
    return pa.table(columns)


def test_any_table_is_rows_in_batches_of_one_test(tmp_path: Path) -> None:
    data = parquet(cycler(5000), row_group_size=500)
    found = read_file(tmp_path, "C7/C7_1_2_11.parquet", data, batch_rows=1000)
    assert found.column("Voltage(V)") == cycler(5000)["Voltage(V)"].to_pylist()
    assert {batch.origin.equipment_id for batch in found.batches} == {"C7"}
    assert found.batches[0].origin.test_start_us == int(T0.timestamp() * 1e6)
    assert max(batch.table.num_rows for batch in found.batches) <= 1000
    found.check_origins()
    split = read(tmp_path / "C7", split_bytes=9000, batch_rows=300)
    assert split.rows == found.rows
    split.check_origins()


def test_without_absolute_time_it_is_one_batch(tmp_path: Path) -> None:
    data = parquet(cycler(5000, timed=False), row_group_size=500)
    found = read_file(tmp_path, "a.parquet", data, batch_rows=100, split_bytes=5000)
    assert [batch.table.num_rows for batch in found.batches] == [5000]


def summaries(rows: int, file: str = "f.csv") -> pa.Table:
    form = arrow_schema(CYCLE_SUMMARY)
    columns = {
        field.name: pa.nulls(rows, field.type) if field.nullable else None for field in form
    } | {
        "summary_id": [f"{row:032x}" for row in range(rows)], "equipment_id": ["C"] * rows,
        "source_file": [file] * rows, "cycle_index": list(range(rows)), "ingested_at": [T0] * rows,
    }  # fmt: skip
    return pa.table(columns, schema=form)


def test_what_the_lake_keeps_of_cycles_comes_in_pieces(tmp_path: Path) -> None:
    table = summaries(30_000)
    found = read_file(tmp_path, "a.parquet", parquet(table, row_group_size=17_000))
    assert not found.batches and not found.letters
    assert len(found.summaries) > 2 and [part.goes_on for part in found.summaries[:2]] == [0, 1]
    assert pa.concat_tables([part.table for part in found.summaries]).equals(table)
    turned = table.select(table.column_names[::-1])
    found = read_file(tmp_path, "a.parquet", parquet(turned))
    assert pa.concat_tables([part.table for part in found.summaries]).equals(table)
    nothing = read_file(tmp_path, "a.parquet", parquet(summaries(0))).summaries
    assert [part.table.num_rows for part in nothing] == [0]


def test_packed_cycles_are_not_unpacked_without_bound(tmp_path: Path) -> None:
    # 200,000 times the same name of 10,000 signs, which lies in the file once.
    table = summaries(200_000)
    name = pa.DictionaryArray.from_arrays(pa.array([0] * table.num_rows), ["x" * 10_000])
    at = table.column_names.index("source_file")
    data = parquet(table.set_column(at, "source_file", name))
    found = read_file(tmp_path, "a.parquet", data)
    assert found.errors == ["too_large"]
    assert sum(part.table.nbytes for part in found.summaries) < len(data) * USUAL.ratio


def test_raw_messages_come_back_as_they_were(tmp_path: Path) -> None:
    table = pa.table(
        {
            "payload": [b"{}", b"x"],
            "key": [b"k", None],
            "attributes": [None, '{"a":1}'],
            "position": ["t/0/1", "t/0/2"],
            "arrived_at": pa.array([T0, T0], pa.timestamp("us", tz="UTC")),
            "source_file": [None, "f.json"],
            "more": [1, 2],
        }
    )
    found = read_file(tmp_path, "raw/dt=2024-01-01/part.parquet", parquet(table))
    (batch,) = found.batches
    assert batch.kind is BatchKind.MESSAGES and batch.table.schema == MESSAGES
    assert found.rows == table.drop_columns(["more"]).to_pylist()
    assert batch.origin.equipment_id is None and batch.origin.source_file is None


def test_dead_letters_are_messages_again(tmp_path: Path) -> None:
    def letter(**fields: object) -> DeadLetter:
        common = {"step": "decode", "error_type": "e", "error_message": "m", "source": "s"}
        return DeadLetter(**common, ingested_at_us=1, **fields)  # type: ignore[arg-type]

    table = dead_letter.table(
        [
            letter(payload=b"a", message_key=b"k", equipment_id="E", position="t/0/1"),
            letter(payload=None, source_file="x/y.xlsx"),
            letter(payload=b"b", equipment_id="E", source_file="x/z.csv", position="line 7"),
            letter(payload=b"c", attributes='{"a":1}'),
        ]
    )
    found = read_file(tmp_path, "dead_letters/part.parquet", parquet(table))
    (batch,) = found.batches
    assert batch.table.schema == MESSAGES
    assert found.column("payload") == [b"a", b"b", b"c"]
    assert found.column("key") == [b"k", None, None]
    assert found.column("attributes") == [None, '{"equipment_id":"E"}', '{"a":1}']
    assert found.column("position") == ["t/0/1", "line 7", None]
    assert found.column("source_file") == [None, "x/z.csv", None]
    assert found.column("arrived_at")[0] == dt.datetime(1970, 1, 1, 0, 0, 0, 1, dt.UTC)
    assert found.errors == ["no_payload"] and found.letters[0]["position"] == "record 2"


def test_readings_of_the_lake_are_rows_without_what_is_derived(tmp_path: Path) -> None:
    row = {
        "reading_id": "0" * 32, "equipment_id": "E", "equipment_type": "battery_cell",
        "recorded_at": T0, "ingested_at": T0, "voltage_v": 3.7, "current_a": 1.0,
        "quality_flags": [], "test_id": "t",
    }  # fmt: skip
    table = pa.Table.from_pylist([row], schema=arrow_schema(READING))
    found = read_file(tmp_path, "readings/dt=2024-01-01/p.parquet", parquet(table))
    (batch,) = found.batches
    assert batch.kind is BatchKind.ROWS
    assert "test_id" in batch.table.column_names
    assert "reading_id" not in batch.table.column_names
    assert batch.origin.equipment_id is None and batch.origin.source_file is None


def test_broken_files_are_dead_letters(tmp_path: Path) -> None:
    data = parquet(cycler(500))
    assert read_file(tmp_path, "a.parquet", data[:-100]).errors == ["corrupt_parquet"]
    assert read_file(tmp_path, "a.parquet", b"x" * 100).errors == ["corrupt_parquet"]
    broken = bytearray(data)
    broken[100:400] = b"\xff" * 300
    assert read_file(tmp_path, "a.parquet", bytes(broken)).errors == ["corrupt_parquet"]
    assert read_file(tmp_path, "a.parquet", parquet(cycler(0))).errors == []


def test_rows_that_are_missing_are_not_passed_over(tmp_path: Path) -> None:
    data = (CORPUS / "parquet" / "pages_missing").read_bytes()
    assert pq.read_metadata(io.BytesIO(data)).num_rows == 50
    found = read_file(tmp_path, "a.parquet", data)
    assert found.errors == ["corrupt_parquet"]
    assert found.letters[0]["error_message"].startswith("0 of its 50 rows could be read")


def test_a_footer_that_counts_rows_which_no_row_group_holds_is_refused(tmp_path: Path) -> None:
    data = (CORPUS / "parquet" / "no_row_groups").read_bytes()
    found = read_file(tmp_path, "a.parquet", data)
    assert found.errors == ["corrupt_parquet"]
    message = found.letters[0]["error_message"]
    assert message.startswith("its footer counts 50 rows and its 0 row groups hold 0")
