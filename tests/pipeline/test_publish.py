"""Publishing's parts that need no broker: messages, order, pace, position, and the flags."""

from __future__ import annotations

import json
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError
from pipeline.publish import main
from pipeline.publishing.merge import TimeOrder
from pipeline.publishing.messages import AT_ONCE, OUTGOING, Outgoing, Reading
from pipeline.publishing.pacing import Pace
from pipeline.publishing.position import Position
from pipeline.sources.files.source import FileSource
from pipeline.sources.simulation.source import SimulatorSource
from schemas import profiles
from schemas.reading import READING
from tests.calce import calce_dir
from transforms.batch import MESSAGES, BatchKind, Origin, RawBatch
from transforms.decode import decode
from transforms.limits import Limits
from transforms.validate import validate

PROFILES = profiles.load([])
NOW = 1_900_000_000_000_000

ARBIN = """Data_Point,Test_Time(s),Date_Time,Step_Time(s),Step_Index,Cycle_Index,Current(A),\
Voltage(V),Charge_Capacity(Ah),Internal_Resistance(Ohm),dV/dt(V/s),Is_FC_Data
1,0.1,2024-05-01 10:00:00,0.1,1,1,0.5,3.30001,0.0001,0,1e-05,0
2,30.015,2024-05-01 10:00:30,30.0,1,1,0.5,3.31,0.0042,0.0912,0.00012345,0
3,60.02,2024-05-01 10:01:00,60.0,1,1,0.5,nonsense,0.0083,0.0912,1.5,1
4,90.02,2024-05-01 10:01:30,90.0,2,1,0.5,3.32,,0.0912,,0
5,120.02,2024-05-01 10:02:00,120.0,2,1,0.5,1e9,0.0166,0.0912,2,0
"""
# Neither test time nor record index: the identity comes from the values and `extra`.
PLAIN = """timestamp,equipment,voltage_mv,current_ma,note,slope
2024-05-01T10:00:00.250Z,pack-7,3300.5,-1500,"a ""quoted"" ü",1e-05
2024-05-01T10:00:01.250Z,pack-7,3299,-1500,,123456789.125
2024-05-01T10:00:01.250Z,pack-8,3299,-1500,x,1e22
"""
# No time at all: it is assumed from the file's.
TIMELESS = "voltage,current\n3.3,1\n3.4,1\n3.4,1\n"
MACHINE = "time,voltage,current,frequency\n2024-05-01 10:00:00,230,4,50.02\n"
SLASHED = "date_time,voltage,current\n25/12/2023 10:00:00,3.3,1\n26/12/2023 10:00:00,3.3,1\n"

FILES = {
    "CS2_9/CS2_9_5_1_24.csv": ARBIN,
    "gateway/plain.csv": PLAIN,
    "rig/cell_a.csv": TIMELESS,
    "rig/motor_1.csv": MACHINE,
    "rig/cell_b.csv": SLASHED,
}


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def reading(**how: Any) -> Reading:
    return Reading(Limits(PROFILES), **how)


def raw_batches(source: FileSource | SimulatorSource) -> list[RawBatch]:
    return [raw for raw in source.batches() if isinstance(raw, RawBatch)]


def published(source: FileSource | SimulatorSource, **how: Any) -> pa.Table:
    outgoing = Outgoing(reading(**how))
    return pa.concat_tables([outgoing.of(raw) for raw in raw_batches(source)])


def received(messages: pa.Table) -> RawBatch:
    """The messages as the Kafka source gives them."""
    rows = messages.num_rows
    files = [orjson.loads(text or "{}").get("source_file")
             for text in messages["attributes"].to_pylist()]  # fmt: skip
    columns = {
        "payload": messages["payload"],
        "key": messages["key"],
        "attributes": messages["attributes"],
        "position": pa.array([f"t/0/{row}" for row in range(rows)]),
        "arrived_at": pa.array([NOW] * rows).cast(pa.timestamp("us", "UTC")),
        "source_file": pa.array(files, pa.string()),
    }
    return RawBatch(pa.table(columns, schema=MESSAGES), BatchKind.MESSAGES, Origin("kafka://x/t"))


def readings(batches: list[RawBatch]) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """What the job makes of batches: readings by identity, and the errors of the others."""
    rows: list[dict[str, Any]] = []
    errors: list[tuple[str, str]] = []
    for raw in batches:
        decoded, bad = decode(raw)
        valid, refused = validate(decoded, Limits(PROFILES), NOW)
        # What was only there to work with: messages say nothing of a file's sampling interval.
        internal = {"profile", "flags", "ingested_at", "interval_s"} & set(valid.column_names)
        rows += valid.drop_columns(sorted(internal)).to_pylist()
        found = {**bad.rows, **refused.rows}.values()
        errors += [(error, column or "") for error, column, _ in found]
    for row in rows:
        for name in [name for name, value in row.items() if value is None]:
            del row[name]
    return sorted(rows, key=lambda row: (row["id_high"], row["id_low"])), sorted(errors)


@pytest.mark.parametrize("name", FILES)
def test_rows_become_the_readings_they_are_in_the_file(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, FILES[name])
    source = FileSource(str(path), name="file")
    expected, wrong = readings(raw_batches(source))
    messages = published(source)
    assert readings([received(messages)]) == (expected, wrong)
    assert len(expected) + len(wrong) == len(FILES[name].splitlines()) - 1
    assert all(row["source_file"] == name for row in expected)
    assert set(messages["key"].to_pylist()) <= {row["equipment_id"].encode() for row in expected}


def test_bad_rows_are_sent_as_they_stand_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "CS2_9/CS2_9_5_1_24.csv", ARBIN)
    messages = published(FileSource(str(path), name="file"))
    last = [json.loads(payload) for payload in messages["payload"].to_pylist()[3:]]
    assert [(row["Data_Point"], row["Voltage(V)"]) for row in last] == [
        ("3", "nonsense"),
        ("5", "1e9"),
    ]
    assert json.loads(messages["attributes"][4].as_py()) == {
        "equipment_id": "CS2_9",
        "source_file": "CS2_9/CS2_9_5_1_24.csv",
    }


@pytest.mark.calce
def test_calce_workbooks_become_the_readings_they_are_in_the_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(calce_dir() / "CS2_35.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".xlsx"))
        path = archive.extract(names[-1], tmp_path)
    source = FileSource(str(path), name="calce")
    expected, wrong = readings(raw_batches(source))
    assert len(expected) > 1000
    assert readings([received(published(source))]) == (expected, wrong)


def test_the_lakes_readings_become_themselves(tmp_path: Path) -> None:
    columns = {
        "reading_id": ["ff"], "equipment_id": ["c"], "equipment_type": ["battery_cell"],
        "test_id": ["c@then"], "recorded_at": [NOW - 5], "ingested_at": [NOW],
        "source_file": ["folder/c.csv"], "voltage_v": [3.3], "current_a": [1.0],
        "quality_flags": [["gap"]], "extra": ['{"note":"x","slope":1e-05}'],
    }  # fmt: skip
    table = pa.table(columns)
    for name in ("recorded_at", "ingested_at"):
        place = table.column_names.index(name)
        table = table.set_column(place, name, table[name].cast(pa.timestamp("us", "UTC")))
    path = tmp_path / "x.parquet"
    pq.write_table(table, path)
    source = FileSource(str(path), name="lake")
    expected, wrong = readings(raw_batches(source))
    assert not wrong
    assert readings([received(published(source))]) == (expected, [])
    assert expected[0]["extra"] == columns["extra"][0]
    assert expected[0]["test_id"] == "c@then"
    assert expected[0]["source_file"] == "folder/c.csv"


def test_messages_stay_as_they_are_and_get_their_equipment_as_key(tmp_path: Path) -> None:
    lines = [
        b'{"equipment_id": "a", "voltage": 3.3, "current": 1, "time": "2024-05-01T10:00:00Z"}',
        b'{"voltage": 3.3, "current": 1,   "time": "2024-05-01T10:00:01Z"}',
        b"{broken",
    ]
    path = tmp_path / "B0005" / "stream_1.ndjson"
    path.parent.mkdir()
    path.write_bytes(b"\n".join(lines) + b"\n")
    messages = published(FileSource(str(path), name="file"), timed=True, stamped=True)
    assert messages["payload"].to_pylist() == lines
    assert messages["key"].to_pylist()[:2] == [b"a", b"B0005"]
    attributes = [json.loads(text) for text in messages["attributes"].to_pylist()]
    assert attributes == [{"source_file": "B0005/stream_1.ndjson", "equipment_id": "B0005"}] * 3
    first = 1_714_557_600_000
    assert messages["timestamp_ms"].to_pylist() == [first, first + 1000, None]
    # One that has no time goes with the one before it.
    due = [first * 1000, (first + 1000) * 1000, (first + 1000) * 1000]
    assert messages["due_us"].to_pylist() == due


def test_the_simulators_messages_are_due_when_they_arrive() -> None:
    source = SimulatorSource("simulator:?equipment=3&readings=600&late=0.2&faults=0.05")
    batches = raw_batches(source)
    messages = published(source, timed=True, by_arrival=True)
    assert messages["payload"].to_pylist() == [
        payload for raw in batches for payload in raw.table["payload"].to_pylist()
    ]
    arrived = [raw.table["arrived_at"].cast(pa.int64()) for raw in batches]
    assert (
        messages["due_us"].to_pylist()
        == pa.chunked_array([chunk for column in arrived for chunk in column.chunks]).to_pylist()
    )


def outgoing(due: list[int], first: int = 0) -> pa.Table:
    rows = len(due)
    payloads = [str(first + row).encode() for row in range(rows)]
    columns = [payloads, [b"k"] * rows, [None] * rows, [None] * rows, due]
    return pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, OUTGOING, strict=True)], schema=OUTGOING
    )


@pytest.mark.parametrize("run_rows", [1, 7, 100, 10_000])
def test_messages_of_many_files_come_out_in_order_of_time(
    run_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.publishing.merge._RUN_ROWS", run_rows)
    monkeypatch.setattr("pipeline.publishing.merge._BLOCK_ROWS", 3)
    random = np.random.default_rng(run_rows)
    dues = [int(due) for due in random.integers(0, 300, 1000)]
    dues[:20] = [AT_ONCE] * 20
    tables = [outgoing(dues[low : low + 10], low) for low in range(0, 1000, 10)]

    def merged() -> list[int]:
        order = TimeOrder(tmp_path)
        order.add(tables)
        assert order.rows == 1000
        payloads = [payload for table in order.tables() for payload in table["payload"].to_pylist()]
        return [int(payload) for payload in payloads]

    found = merged()
    assert sorted(found) == list(range(1000))
    assert [dues[row] for row in found] == sorted(dues)
    # A position counts on it.
    assert merged() == found
    assert not list(tmp_path.iterdir())


class Clock:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Stop(threading.Event):
    """A stop that moves the clock instead of waiting."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None and timeout > 0
        self._clock.now += timeout
        return self.is_set()


def given(pace: Pace, clock: Clock, tables: list[pa.Table]) -> Iterator[tuple[float, int]]:
    """When each message was given out."""
    for table in tables:
        for piece in pace.pieces(table):
            for payload in piece["payload"].to_pylist():
                yield clock.now - 100.0, int(payload)


def test_a_rate_is_kept_over_tables() -> None:
    clock = Clock()
    pace = Pace(50.0, None, Stop(clock), clock)
    sent = list(given(pace, clock, [outgoing([0] * 70), outgoing([0] * 130, 70)]))
    assert [number for _, number in sent] == list(range(200))
    for at, number in sent:
        assert number / 50 <= at + 1e-9 and at < number / 50 + 0.03


def test_messages_go_as_fast_as_their_own_time_runs() -> None:
    clock = Clock()
    seconds = [0, 1, 1, 600, 6000]
    due = [AT_ONCE, *[1_700_000_000_000_000 + second * 10**6 for second in seconds]]
    pace = Pace(None, 60.0, Stop(clock), clock)
    sent = list(given(pace, clock, [outgoing(due)]))
    assert [number for _, number in sent] == list(range(6))
    for (at, _), second in zip(sent[1:], seconds, strict=True):
        assert second / 60 <= at + 1e-9 and at < second / 60 + 0.03


def test_without_a_pace_nothing_waits_and_pieces_stay_small() -> None:
    clock = Clock()
    pace = Pace(None, None, Stop(clock), clock)
    pieces = [piece.num_rows for piece in pace.pieces(outgoing([0] * 12_001))]
    assert pieces == [5000, 5000, 2001]
    assert clock.now == 100.0


def test_a_stop_ends_the_pieces() -> None:
    clock = Clock()
    stop = Stop(clock)
    pieces = Pace(None, None, stop, clock).pieces(outgoing([0] * 12_000))
    assert next(pieces).num_rows == 5000
    stop.set()
    assert not list(pieces)


def test_a_position_is_found_again_and_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "position.json"
    position = Position(str(path), {"--source": "a"})
    assert position.load() == 0
    position.save(1234)
    assert Position(str(path), {"--source": "a"}).load() == 1234
    assert [file.name for file in path.parent.iterdir()] == ["position.json"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "can't be read as a position"),
        ('{"acknowledged": 3}', "can't be read as a position"),
        ('{"acknowledged": 3, "publication": "x"}', "can't be read as a position"),
        ('{"acknowledged": 7, "publication": {"--source": "a"}, "checksum": "x"}', "checksum"),
        ('{"acknowledged": -3, "publication": {"--source": "a"}}', "holds no position"),
        ('{"acknowledged": 3, "publication": {"--source": "b"}}', "--source was b and is a"),
    ],
)
def test_a_position_that_does_not_fit_is_refused(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "position.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        Position(str(path), {"--source": "a"}).load()
    assert str(raised.value).startswith(f"--resume={path}: ")
    assert says in str(raised.value)
    assert "delete it" in str(raised.value)
    assert path.read_text() == text


TO = "--to=kafka://127.0.0.1:1/t"

WRONG = [
    ([], "--to", "required"),
    (["--to=ftp://x/y"], "--to=ftp://x/y", "kafka://HOST:PORT"),
    (["--to=kafka://u:secret@h/t"], "--to=kafka://h/t", "environment"),
    (["--to=pubsub://proj/topic?ordered=maybe"], "'ordered'", "true or false"),
    ([TO, "--rate=5", "--speed=2"], "--rate and --speed", "drop one"),
    ([TO, "--rate=0"], "--rate=0", "above 0"),
    ([TO, "--speed=nan"], "--speed=nan", "above 0"),
    ([TO, "--speed=2", "--order=source"], "--order=source", "drop"),
    ([TO, "--limit=0"], "--limit=0", "1 or more"),
    ([TO, "--create_topic=0"], "--create_topic=0", "1 or more"),
    ([TO, "--sauce=x"], "--sauce", "--help"),
    ([TO, "--time_zone=Mars/Base"], "--time_zone=Mars/Base", "Europe/Berlin"),
    ([TO, "--date_order=ymd"], "--date_order", "mdy"),
    ([TO, "--source=/no/such/folder"], "--source=/no/such/folder", "exists"),
    ([TO, "--source=simulator:?cells=4"], "'cells'", "valid are"),
    (["--to=pubsub://proj/topic", "--timestamp=event"], "--timestamp=event", "drop it"),
    (["--to=pubsub://proj/topic", "--create_topic=3"], "--create_topic=3", "no partitions"),
]


@pytest.mark.parametrize(("flags", "names", "fix"), WRONG)
def test_a_wrong_flag_is_named_with_its_fix(
    flags: list[str], names: str, fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert names in err
    assert fix in err
    assert "secret" not in err


def test_every_reading_column_is_sent_or_left_to_the_job(tmp_path: Path) -> None:
    """A column added to the reading is published too, or this test asks why not."""
    names = [field.name for field in READING.fields if not field.derived and field.name != "extra"]
    values = {
        "equipment_type": "battery_cell", "equipment_id": "c", "test_id": "t",
        "source_file": "f/c.csv", "recorded_at": "2024-05-01T10:00:00.000001Z",
        "streamed_at": "2024-05-01T10:00:01Z", "ingested_at": "2024-05-01T10:00:02Z",
        "voltage_v": "3.3", "current_a": "1.1",
    }  # fmt: skip
    row = [str(values.get(name, place)) for place, name in enumerate(names, start=1)]
    path = write(tmp_path, "c.csv", ",".join(names) + "\n" + ",".join(row) + "\n")
    source = FileSource(str(path), name="file")
    expected, wrong = readings(raw_batches(source))
    assert not wrong
    assert readings([received(published(source))]) == (expected, [])
    sent = json.loads(published(source)["payload"][0].as_py())
    assert set(sent) == set(names) - {"ingested_at"}


def test_out_of_time_order_nothing_is_lost() -> None:
    source = SimulatorSource("simulator:?equipment=3&readings=600")
    messages = published(source)
    assert pc.all(pc.equal(messages["due_us"], AT_ONCE)).as_py()
