"""The lake's steps on every store, and as runners with many workers have them."""

from __future__ import annotations

import datetime as dt
import io
import itertools
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipeline.engines import HERE, Engine
from pipeline.engines.dataflow import ENGINE as DATAFLOW
from pipeline.errors import LakeFailed
from pipeline.sinks import Produced
from pipeline.sinks.lake import archive, held, recent
from pipeline.sinks.lake.archive import look_again, write_messages
from pipeline.sinks.lake.files import write_parquet
from pipeline.sinks.lake.files_as_they_are import archive_file
from pipeline.sinks.lake.sink import LakeSink
from pipeline.sinks.lake.tables import READINGS, Parts, by_day, write_day
from pipeline.stores import Store, store_at
from pipeline.stores.raw_file import RawFile
from tests.pipeline.conftest import Place
from tests.pipeline.sinks.lake.test_archive import offsets, once, positions
from tests.pipeline.stores.faults import PASSED
from tests.running import limited_file_size
from transforms.batch import BatchKind, Origin, RawBatch

NOON = dt.datetime(2024, 6, 1, 12, tzinfo=dt.UTC)


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    look_again()
    yield
    look_again()


def readings(first: int, count: int, day: int = 0) -> pa.Table:
    """As much of readings as the lake looks at."""
    moments = [NOON + dt.timedelta(days=day, seconds=number) for number in range(count)]
    return pa.table(
        {
            "reading_id": pa.array([f"{day}-{first + n:06}" for n in range(count)]),
            "recorded_at": pa.array(moments, pa.timestamp("us", "UTC")),
        }
    )


def raw(*numbers: int, part: str = "t/0") -> RawBatch:
    return RawBatch(offsets(*numbers, part=part), BatchKind.MESSAGES, Origin("kafka://b/t"))


def tables(store: Store, folder: str) -> list[pa.Table]:
    found = []
    for stored in store.files(folder):
        with store.open(stored.path) as file:
            found.append(pq.read_table(io.BytesIO(file.read())))
    return found


def ids(store: Store) -> list[str]:
    return sorted(
        name for table in tables(store, "readings") for name in table["reading_id"].to_pylist()
    )


def held_positions(store: Store, folder: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for table in tables(store, folder):
        for name in table["position"].to_pylist():
            found[name] = found.get(name, 0) + 1
    return found


def ran(
    store: Store,
    engine: Engine,
    made: Sequence[pa.Table],
    messages: Sequence[RawBatch] = (),
    file_bytes: int = 1 << 20,
    dialects: Sequence[pa.Table] = (),
) -> None:
    """The sink's steps on bounded input."""
    sink = LakeSink(store.uri, "kafka://b/t", engine=engine, file_bytes=file_bytes)
    sink.prepare()
    with beam.Pipeline(FnApiRunner()) as pipeline:

        def given(name: str, elements: Sequence[object]) -> beam.PCollection:
            kind = RawBatch if name == "raw" else pa.Table
            made = pipeline | name >> beam.Create(list(elements), reshuffle=False)
            return made | f"{name}Typed" >> beam.Map(lambda each: each).with_output_types(kind)

        stats = given("stats", [])
        produced = Produced(
            raw=given("raw", messages), files=None, readings=given("readings", made),
            window_stats=stats, tails=stats, dialects=given("dialects", dialects), summaries=None,
        )  # fmt: skip
        assert sink.write(produced) is None


# --- small tables ---------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [HERE, DATAFLOW])
def test_how_tests_were_read_is_kept_by_the_day_their_file_arrived(
    place: Place, engine: Engine
) -> None:
    def dialects(*names: str, day: int = 0) -> pa.Table:
        moments = [NOON + dt.timedelta(days=day)] * len(names)
        arrived = pa.array(moments, pa.timestamp("us", "UTC"))
        return pa.table({"dialect_id": pa.array(names), "ingested_at": arrived})

    given = [dialects("b", "a"), dialects("c", day=1), dialects("d")]
    again = [dialects("a")] if engine is HERE else []
    ran(place.store, engine, [], dialects=[*given, *again])
    for day, wanted in (("01", ["a", "b", "d"]), ("02", ["c"])):
        kept = tables(place.store, f"test_dialects/dt=2024-06-{day}")
        assert sorted(pa.concat_tables(kept)["dialect_id"].to_pylist()) == wanted
    before = {stored.path for stored in place.store.files("test_dialects")}
    ran(place.store, engine, [], dialects=[*again, *reversed(given)])
    assert {stored.path for stored in place.store.files("test_dialects")} == before


# --- gathering ----------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [HERE, DATAFLOW])
def test_a_day_is_a_file_and_the_order_of_what_comes_changes_nothing(
    place: Place, engine: Engine
) -> None:
    parts = [readings(n * 100, 50, day) for n, day in itertools.product(range(4), range(3))]
    # One that holds two days.
    parts.append(pa.concat_tables([readings(1000, 10, 0), readings(1000, 10, 1)]))
    ran(place.store, engine, parts)
    files = {name: found for name, found in place.versions().items() if "readings" in name}
    days = {name.split("/")[-2] for name in files}
    assert days == {"dt=2024-06-01", "dt=2024-06-02", "dt=2024-06-03"}
    # With many workers a day is divided among some of them.
    assert len(files) == 3 if engine is HERE else 3 <= len(files) <= 12
    assert ids(place.store) == sorted(
        name for part in parts for name in part["reading_id"].to_pylist()
    )
    ran(place.store, engine, parts[::-1])
    assert {name: found for name, found in place.versions().items() if "readings" in name} == files


def test_files_have_the_size_that_is_asked_for(place: Place) -> None:
    parts = [readings(n * 1000, 1000) for n in range(8)]
    ran(place.store, HERE, parts, file_bytes=parts[0].nbytes // 4 * 3)
    assert sorted(table.num_rows for table in tables(place.store, "readings")) == [2000, 3000, 3000]


def test_messages_of_a_stream_are_gathered_by_many_workers(place: Place) -> None:
    batches = [raw(*range(n * 10, n * 10 + 10), part=f"t/{n % 2}") for n in range(12)]
    ran(place.store, DATAFLOW, [], batches)
    found = held_positions(place.store, "raw/source=kafka_b_t")
    wanted = [name for batch in batches for name in batch.table["position"].to_pylist()]
    assert found == once(*wanted)
    assert len(list(place.store.files("raw"))) <= 4
    # A job on the local runner that goes on there knows what is held.
    write_messages(place.store, "raw/source=kafka_b_t", offsets(*range(5), part="t/0"))
    assert held_positions(place.store, "raw/source=kafka_b_t") == found


# --- restarts -----------------------------------------------------------------------------------


def test_an_archive_on_a_server_is_known_by_its_footers(remote: Place) -> None:
    assert remote.faults is not None
    for begin in range(0, 200, 10):
        write_messages(remote.store, "raw/x", offsets(*range(begin, begin + 10)))
    look_again()
    remote.faults.plan()
    write_messages(remote.store, "raw/x", offsets(*range(195, 210)))
    # Two hours are listed, each footer is read once, one file is read, one is written.
    assert len(remote.faults.seen) <= 2 + 20 + 4 + 1
    assert held_positions(remote.store, "raw/x") == once(*positions(range(210)))
    remote.faults.plan()
    write_messages(remote.store, "raw/x", offsets(*range(210, 220)))
    assert len(remote.faults.seen) == 1
    assert len(archive._known) <= archive._HOURS


def test_what_a_run_before_had_written_is_left_out(place: Place) -> None:
    began_s = time.time()
    write_day(place.store, READINGS, "2024-06-01", readings(0, 10))
    for first, count in ((0, 20), (5, 15)):
        recent.look(place.store, "readings", began_s)
        for day, part in by_day(readings(first, count), "recorded_at"):
            write_day(place.store, READINGS, day, part)
    write_day(place.store, READINGS, "2024-06-02", readings(0, 3, day=1))
    names = ids(place.store)
    assert len(names) == len(set(names)) == 23
    if place.faults is not None:
        place.faults.plan()
        write_day(place.store, READINGS, "2024-06-01", readings(30, 5))
        assert len(place.faults.seen) == 1
    recent.forget(place.store, "readings")


# --- damage -------------------------------------------------------------------------------------

DAY = "readings/dt=2024-06-01"


def bytes_of(store: Store, path: str) -> bytes:
    with store.open(path) as file:
        return file.read()


def spoil(place: Place, path: str, data: bytes) -> None:
    """Puts other content under a name, as a copy that was cut off or a disk that failed would."""
    assert place.store.create(path, data, replace=True)
    assert bytes_of(place.store, path) == data


def holes(data: bytes) -> bytes:
    """Its middle as zeros."""
    third = len(data) // 3
    return data[:third] + bytes(third) + data[2 * third :]


SPOILT = {
    "empty": lambda _: b"",
    "half": lambda data: data[: len(data) // 2],
    "longer": lambda data: data + b"0",
    "zeros": lambda data: bytes(len(data)),
    "holes": holes,
    "text": lambda _: b"not a Parquet file",
}


@pytest.mark.parametrize("how", list(SPOILT))
def test_a_damaged_file_of_readings_is_written_again_and_named(
    place: Place, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    table = readings(0, 3000)
    path = write_parquet(place.store, DAY, table, ["reading_id"])
    whole = bytes_of(place.store, path)
    spoil(place, path, SPOILT[how](whole))
    assert write_parquet(place.store, DAY, table, ["reading_id"]) == path
    assert bytes_of(place.store, path) == whole
    (line,) = caplog.messages
    assert line.startswith(f"--lake={place.store.uri}: {path} ") and "\n" not in line
    assert line.endswith("; it was damaged and is written again")
    before = place.versions()
    assert write_parquet(place.store, DAY, table, ["reading_id"]) == path
    assert place.versions() == before and len(caplog.messages) == 1


def test_a_file_with_other_rows_under_the_name_is_replaced(place: Place) -> None:
    table = readings(0, 30)
    path = write_parquet(place.store, DAY, table, ["reading_id"])
    for other in (readings(100, 30), readings(0, 29), pa.table({"reading_id": [1]})):
        sink = pa.BufferOutputStream()
        pq.write_table(other, sink)
        spoil(place, path, sink.getvalue().to_pybytes())
        assert write_parquet(place.store, DAY, table, ["reading_id"]) == path
        assert ids(place.store) == sorted(table["reading_id"].to_pylist())


def test_what_an_older_version_wrote_of_the_same_readings_stays(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    table = readings(0, 30)
    path = write_parquet(place.store, DAY, table, ["reading_id"])
    sink = pa.BufferOutputStream()
    pq.write_table(table.append_column("older", pa.array(range(30))), sink, compression="snappy")
    spoil(place, path, sink.getvalue().to_pybytes())
    before = place.versions()
    assert write_parquet(place.store, DAY, table, ["reading_id"]) == path
    assert place.versions() == before and not caplog.messages


@pytest.mark.parametrize("content", [b"", b"a,b\n1", b"a,b\n1,3\n", b"a,b\n1,2\n3,4\n"])
def test_a_damaged_file_of_the_raw_archive_is_written_again(
    place: Place, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    local = tmp_path / "in" / "C1.csv"
    local.parent.mkdir()
    local.write_bytes(b"a,b\n1,2\n")
    file = RawFile(str(local), "C1/C1.csv", 1_717_243_200_000_000, 8)
    archive_file(place.store, file)
    (stored,) = place.store.files("raw")
    spoil(place, stored.path, content)
    archive_file(place.store, file)
    assert bytes_of(place.store, stored.path) == local.read_bytes()
    assert [stored.path in line for line in caplog.messages] == [True]
    archive_file(place.store, file)
    assert len(caplog.messages) == 1


def test_a_damaged_file_that_may_not_be_replaced_has_one_in_its_place(
    remote: Place, caplog: pytest.LogCaptureFixture
) -> None:
    assert remote.faults is not None
    table = readings(0, 30)
    path = write_parquet(remote.store, DAY, table, ["reading_id"])
    spoil(remote, path, b"half")
    for _ in range(2):
        # A worker of Dataflow may create and read; the second upload would write over a file.
        remote.faults.plan(PASSED, 403)
        other = write_parquet(remote.store, DAY, table, ["reading_id"])
        assert other == path.replace(".parquet", "-2.parquet")
    assert bytes_of(remote.store, path) == b"half"
    assert all("may not replace it" in line and path in line for line in caplog.messages)


@pytest.mark.parametrize(
    "foreign", [b"", b"not a Parquet file", b"PAR1" + bytes(100) + b"PAR1", "other columns"]
)
def test_a_foreign_file_in_the_current_hour_is_named_and_left_out(
    place: Place, foreign: bytes | str, caplog: pytest.LogCaptureFixture
) -> None:
    write_messages(place.store, "raw/x", offsets(*range(10)))
    (stored,) = place.store.files("raw/x")
    if isinstance(foreign, str):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"position": [1], "payload": ["x"]}), sink)
        foreign = sink.getvalue().to_pybytes()
    name = stored.path.rpartition("/")[0] + "/notes.parquet"
    place.store.create(name, foreign)
    look_again()
    for _ in range(2):
        write_messages(place.store, "raw/x", offsets(*range(5, 15)))
    spoil(place, name, b"")  # so that what is there can be read
    (line,) = caplog.messages
    assert line.startswith(f"--lake={place.store.uri}: {name} ") and "left out" in line
    found: dict[str, int] = {}
    for each in place.store.files("raw/x"):
        if each.path != name:
            with place.store.open(each.path) as file:
                for position in pq.read_table(io.BytesIO(file.read()))["position"].to_pylist():
                    found[position] = found.get(position, 0) + 1
    assert found == once(*positions(range(15)))


def test_messages_of_a_damaged_file_are_written_again(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    write_messages(place.store, "raw/x", offsets(*range(2000)))
    (stored,) = place.store.files("raw/x")
    spoil(place, stored.path, holes(bytes_of(place.store, stored.path)))
    look_again()
    for _ in range(2):
        write_messages(place.store, "raw/x", offsets(*range(2000)))
        write_messages(place.store, "raw/x", offsets(*range(1000, 2500)))
    assert held_positions(place.store, "raw/x") == once(*positions(range(2500)))
    assert all(stored.path in line for line in caplog.messages)


def test_a_damaged_file_of_a_run_before_is_left_out(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    began_s = time.time()
    write_day(place.store, READINGS, "2024-06-01", readings(0, 10))
    for name, data in (("a", b"half"), ("b", b"")):
        place.store.create(f"{DAY}/{name}.parquet", data)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"reading_id": ["0-000001"], "recorded_at": ["noon"]}), sink)
    place.store.create(f"{DAY}/c.parquet", sink.getvalue())
    recent.look(place.store, "readings", began_s)
    write_day(place.store, READINGS, "2024-06-01", readings(0, 15))
    recent.forget(place.store, "readings")
    assert sorted(line.split()[1][-9:] for line in caplog.messages) == [
        "a.parquet", "b.parquet", "c.parquet"
    ]  # fmt: skip
    whole = [each.path for each in place.store.files(DAY) if len(each.path.rpartition("/")[2]) > 20]
    names = [
        name
        for path in whole
        for name in pq.read_table(io.BytesIO(bytes_of(place.store, path)))["reading_id"].to_pylist()
    ]
    assert sorted(names) == sorted(readings(0, 15)["reading_id"].to_pylist())


def test_a_lake_that_is_removed_while_it_is_written_fails(tmp_path: Path) -> None:
    store = store_at(str(tmp_path / "lake"))
    store.prepare()
    write_parquet(store, DAY, readings(0, 3), ["reading_id"])
    store.complete()
    shutil.rmtree(tmp_path / "lake")
    for _ in range(2):
        with pytest.raises(LakeFailed, match="removed or replaced while the job wrote to it"):
            write_parquet(store, DAY, readings(3, 3), ["reading_id"])
        with pytest.raises(LakeFailed):
            store.complete()
        (tmp_path / "lake").mkdir(exist_ok=True)  # another folder of that name is not that one
    assert list((tmp_path / "lake").iterdir()) == []


def test_a_full_disk_is_named_with_the_file(tmp_path: Path) -> None:
    store = store_at(str(tmp_path))
    with (
        limited_file_size(100),
        pytest.raises(LakeFailed, match=rf"^--lake={tmp_path}: {tmp_path}/readings/dt=.*parquet "
                      r"can't be written \(File too large\); "),
    ):  # fmt: skip
        write_parquet(store, DAY, readings(0, 3000), ["reading_id"])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# --- files --------------------------------------------------------------------------------------


def test_a_file_is_archived_once_with_its_name_and_content(place: Place, tmp_path: Path) -> None:
    local = tmp_path / "in" / "C1.csv"
    local.parent.mkdir()
    local.write_bytes(b"a,b\n1,2\n")
    at_us = 1_717_243_200_000_000
    for _ in range(2):
        archive_file(place.store, RawFile(str(local), "C1/C1.csv", at_us, 8))
    (name,) = [path for path in place.versions() if "raw" in path]
    assert name.startswith("the/lake/raw/source=files/dt=2024-06-01/hr=12/")
    assert name.endswith("/C1/C1.csv")
    local.write_bytes(b"a,b\n1,3\n")
    archive_file(place.store, RawFile(str(local), "C1/C1.csv", at_us, 8))
    assert len([path for path in place.versions() if "raw" in path]) == 2


def test_a_file_that_is_gone_by_now_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_at(str(tmp_path / "lake"))
    store.prepare()
    archive_file(store, RawFile(str(tmp_path / "C1.csv"), "C1.csv", 0, 8))
    assert list(store.files("")) == []
    (line,) = caplog.messages
    assert line.startswith(f"{tmp_path}/C1.csv is not in the raw archive: No such file")


def test_what_lies_in_the_archive_is_not_archived_again(tmp_path: Path) -> None:
    for lake, source, whole in (
        ("gs://b/lake", "gs://b/lake/raw", False),
        ("gs://b/lake/", "gs://b/lake", False),
        ("gs://b/lake", "gs://b/lake2/raw", True),
        ("gs://b/lake", "s3://b/lake/raw", True),
        (str(tmp_path), str(tmp_path / "raw" / "x.zip"), False),
        (str(tmp_path), "gs://b/lake/raw", True),
        (str(tmp_path), str(tmp_path.parent), True),
    ):
        assert LakeSink(lake, source)._archive is whole


AGAIN = Parts(4, 8, again=True)


def of_equipment(name: str, first: int, count: int) -> pa.Table:
    """Readings of one equipment, a second apart; their keys name it."""
    seconds = [NOON + dt.timedelta(seconds=first + at) for at in range(count)]
    return pa.table(
        {
            "reading_id": pa.array([f"{name}-{first + at:06}" for at in range(count)]),
            "equipment_id": pa.array([name] * count),
            "recorded_at": pa.array(seconds, pa.timestamp("us", "UTC")),
        }
    )


def test_work_that_is_done_again_in_other_cuts_is_written_once(place: Place) -> None:
    day = "2024-06-01"
    for first, count in ((0, 10), (10, 10), (5, 10), (0, 20), (15, 10)):
        write_day(place.store, READINGS, day, of_equipment("a", first, count), AGAIN)
        write_day(place.store, READINGS, day, of_equipment("b", first, count), AGAIN)
    assert ids(place.store) == [f"{name}-{at:06}" for name in "ab" for at in range(25)]


def test_a_row_that_comes_again_before_the_first_is_written_is_written_once(place: Place) -> None:
    rows = of_equipment("a", 0, 10)
    for version in (None, [1] * 10 + [1] * 5 + [2] * 5):
        twice = pa.concat_tables([rows, rows])
        if version is not None:
            twice = twice.append_column("content_id", pa.array(version))
        day = "2024-06-01" if version is None else "2024-06-02"
        kept = write_day(place.store, READINGS, day, twice, AGAIN)
        # Two versions of a reading are two.
        stored = 10 if version is None else 15
        assert (kept.stored, kept.already_there) == (stored, 20 - stored)
    nothing = pa.nulls(20, pa.int64())
    write_day(
        place.store, READINGS, "2024-06-03", twice.set_column(3, "content_id", nothing), AGAIN
    )
    assert ids(place.store) == sorted(
        [f"a-{at:06}" for at in range(10)] * 3 + [f"a-{at:06}" for at in range(5, 10)]
    )


def test_a_file_of_other_times_or_of_another_part_is_not_looked_into(place: Place) -> None:
    day, opened = "2024-06-01", []
    write_day(place.store, READINGS, day, of_equipment("a", 0, 10), AGAIN)
    write_day(place.store, READINGS, day, of_equipment("a", 100, 10), AGAIN)
    held._keys_of.cache_clear()
    looked = held._keys_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held, "_keys_of", lambda *given: opened.append(given[1]) or looked(*given))
        write_day(place.store, READINGS, day, of_equipment("a", 50, 10), AGAIN)
        assert AGAIN.of(of_equipment("a", 0, 1), "reading_id") != AGAIN.of(
            of_equipment("c", 0, 1), "reading_id"
        )
        write_day(place.store, READINGS, day, of_equipment("c", 0, 10), AGAIN)
        assert opened == []
        write_day(place.store, READINGS, day, of_equipment("a", 105, 10), AGAIN)
        assert len(opened) == 1
    assert len(ids(place.store)) == 45


def test_files_of_other_parts_and_shards_are_looked_into_all_the_same(place: Place) -> None:
    day = "2024-06-01"
    write_day(place.store, READINGS, day, of_equipment("a", 0, 10))
    write_day(place.store, READINGS, day, of_equipment("a", 5, 10), Parts(4, 16, again=True))
    write_day(place.store, READINGS, day, of_equipment("a", 0, 20), AGAIN)
    assert ids(place.store) == [f"a-{at:06}" for at in range(20)]


def test_messages_that_another_worker_has_written_meanwhile_are_left_out(place: Place) -> None:
    write_messages(place.store, "raw/x", offsets(*range(10)), others=True)
    mine = dict(archive._known)
    look_again()
    write_messages(place.store, "raw/x", offsets(*range(10, 20)), others=True)
    # The first worker goes on with what it knew.
    archive._known.clear()
    archive._known.update(mine)
    write_messages(place.store, "raw/x", offsets(*range(5, 25)), others=True)
    assert sorted(held_positions(place.store, "raw/x").values()) == [1] * 25
