"""The archive of a stream: every message verbatim and once, however often and cut it comes."""

from __future__ import annotations

import datetime as dt
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.clock import CLOCK, steady_us
from pipeline.engines.local import live, patches
from pipeline.engines.polling import NOTHING_WAITS, Polled, ReadLive
from pipeline.errors import LakeFailed
from pipeline.sinks.lake import archive, archive_steps
from pipeline.sinks.lake.archive import hour_folder, look_again, slug
from pipeline.sinks.lake.archive_steps import ArchiveBatches, ArchiveStream, ToMessagePieces
from pipeline.sinks.lake.tables import Sizes
from pipeline.stores.local import LocalStore
from tests.pipeline.engines.local.test_live import Script, Slow, new_pipeline, ran
from tests.properties import use_profile
from transforms.batch import MESSAGES, BatchKind, Origin, RawBatch

use_profile()

SECOND = 1_000_000
HOUR_US = 3_600 * SECOND
NOON_US = 1_717_243_200 * SECOND  # 2024-06-01 12:00 UTC


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    look_again()
    yield
    look_again()


def table(messages: dict[str, int | None]) -> pa.Table:
    """Messages by position, with their arrival in µs after noon."""
    arrived = [None if at is None else NOON_US + at for at in messages.values()]
    columns = {
        "payload": pa.array([f"of {name}".encode() for name in messages], pa.binary()),
        "key": pa.array([b"k"] * len(messages), pa.binary()),
        "attributes": pa.nulls(len(messages), pa.string()),
        "position": pa.array(messages, pa.string()),
        "arrived_at": pa.array(arrived, MESSAGES.field("arrived_at").type),
        "source_file": pa.nulls(len(messages), pa.string()),
    }
    return pa.table(columns, schema=MESSAGES)


def offsets(*numbers: int, part: str = "t/0", at: int = 0) -> pa.Table:
    return table({f"{part}/{number}": at + number for number in numbers})


def write_messages(root: Path, messages: pa.Table) -> None:
    archive.write_messages(LocalStore(str(root.parent)), root.name, messages)


def files(root: Path) -> list[Path]:
    return sorted(root.rglob("*.parquet"))


def held(root: Path) -> dict[str, int]:
    """Position → how often it stands in the archive; every message as it was."""
    found: dict[str, int] = {}
    for path in files(root):
        part = pq.read_table(path, partitioning=None)
        assert part.schema.remove_metadata().equals(MESSAGES.remove_metadata())
        for row in part.select(["position", "payload"]).to_pylist():
            assert row["payload"] == f"of {row['position']}".encode()
            found[row["position"]] = found.get(row["position"], 0) + 1
    return found


def once(*names: str) -> dict[str, int]:
    return dict.fromkeys(names, 1)


def positions(numbers: range, part: str = "t/0") -> list[str]:
    return [f"{part}/{number}" for number in numbers]


# --- names --------------------------------------------------------------------------------------


def test_hours_and_sources_have_names_that_every_file_system_takes() -> None:
    assert hour_folder(NOON_US) == "dt=2024-06-01/hr=12"
    assert hour_folder(NOON_US - 1) == "dt=2024-06-01/hr=11"
    assert hour_folder(NOON_US + 12 * HOUR_US) == "dt=2024-06-02/hr=00"
    assert slug("kafka://b1:9092,b2/cells") == "kafka_b1_9092_b2_cells"
    assert slug("//") == "source" and len(slug("x" * 300)) == 80


# --- known by offset ----------------------------------------------------------------------------


def test_a_replay_with_other_cuts_adds_nothing(tmp_path: Path) -> None:
    write_messages(tmp_path, offsets(*range(10)))
    write_messages(tmp_path, offsets(*range(10, 15)))
    for again in (range(10), range(3, 12), range(14, 15), range(15)):
        write_messages(tmp_path, offsets(*again))
    assert len(files(tmp_path)) == 2
    look_again()  # and from the files themselves
    for again in (range(10), range(3, 12), range(14, 15), range(15)):
        write_messages(tmp_path, offsets(*again))
    assert len(files(tmp_path)) == 2 and held(tmp_path) == once(*positions(range(15)))


@pytest.mark.parametrize("forgets", [False, True])
def test_of_a_replay_that_goes_further_the_new_messages_are_written(
    tmp_path: Path, forgets: bool
) -> None:
    write_messages(tmp_path, offsets(5, 6, 7))
    for again in (range(6, 12), range(13), range(20)):
        if forgets:
            look_again()
        write_messages(tmp_path, offsets(*again))
    assert held(tmp_path) == once(*positions(range(20)))


def test_partitions_have_offsets_of_their_own(tmp_path: Path) -> None:
    write_messages(tmp_path, pa.concat_tables([offsets(1, 2), offsets(1, 2, part="t/1")]))
    write_messages(tmp_path, offsets(1, 2, part="part"))
    mixed = [offsets(2, 3), offsets(1, 2, 3, part="t/1"), offsets(2, 3, part="u/0")]
    write_messages(tmp_path, pa.concat_tables(mixed))
    assert held(tmp_path) == once(
        *positions(range(1, 4)),
        *positions(range(1, 4), "t/1"),
        *positions(range(1, 3), "part"),
        *positions(range(2, 4), "u/0"),
    )


def test_hours_have_files_of_their_own(tmp_path: Path) -> None:
    border = {f"t/0/{n}": HOUR_US - 2 + n for n in range(4)}
    write_messages(tmp_path, table(border))
    assert [str(path.parent.relative_to(tmp_path)) for path in files(tmp_path)] == [
        "dt=2024-06-01/hr=12", "dt=2024-06-01/hr=13"
    ]  # fmt: skip
    write_messages(tmp_path, table(border))
    assert held(tmp_path) == once(*border) and len(files(tmp_path)) == 2


def test_a_message_that_came_in_no_order_of_time_is_kept_in_its_hour(tmp_path: Path) -> None:
    # Producers' clocks differ: offset 1 of an hour lies between two of another.
    mixed = {"t/0/0": 0, "t/0/1": HOUR_US, "t/0/2": 0, "t/0/3": HOUR_US, "t/0/4": 0}
    write_messages(tmp_path, table(mixed))
    write_messages(tmp_path, table(dict(itertools.islice(mixed.items(), 1, 4))))
    assert held(tmp_path) == once(*mixed)


def test_what_counts_as_come_an_hour_later_the_second_time_is_known(tmp_path: Path) -> None:
    first = {f"t/0/{n}": HOUR_US - 1 for n in range(5)}
    write_messages(tmp_path, table(first))
    again = {f"t/0/{n}": HOUR_US + 1 for n in range(3, 8)}
    for _ in range(2):
        write_messages(tmp_path, table(again))
        look_again()
    assert held(tmp_path) == once(*positions(range(8)))


def test_ranges_of_the_hour_before_say_nothing_of_this_one(tmp_path: Path) -> None:
    # The hour before holds offsets 0 and 4 of a partition, this one 1 to 3, which come later.
    write_messages(tmp_path, table({"t/0/0": HOUR_US - 2, "t/0/4": HOUR_US - 1}))
    write_messages(tmp_path, table({f"t/0/{n}": HOUR_US + n for n in (1, 2, 3)}))
    assert held(tmp_path) == once(*positions(range(5)))


def test_without_an_arrival_a_message_is_kept_all_the_same(tmp_path: Path) -> None:
    write_messages(tmp_path, table({"t/0/1": None}))
    assert held(tmp_path) == once("t/0/1")


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(0, 29), st.integers(1, 30), st.booleans()), max_size=8),
)
def test_however_it_is_read_again_every_message_stands_there_once(
    hours: list[int], reads: list[tuple[int, int, bool]]
) -> None:
    """Reads are contiguous, and begin at or before where the last one ended, as commits do."""
    messages = {f"t/0/{n}": hour * HOUR_US + n for n, hour in enumerate(hours)}
    with tempfile.TemporaryDirectory() as folder:
        root, reached = Path(folder), 0
        look_again()
        for start, count, forgets in [*reads, (0, len(hours), True)]:
            if forgets:
                look_again()
            begin = min(start, reached)
            part = dict(itertools.islice(messages.items(), begin, begin + count))
            if part:
                write_messages(root, table(part))
                reached = max(reached, begin + len(part))
        assert held(root) == once(*messages)


# --- known by id --------------------------------------------------------------------------------


@pytest.mark.parametrize("forgets", [False, True])
def test_messages_without_an_offset_are_known_by_their_id(tmp_path: Path, forgets: bool) -> None:
    for names in ("17", "3", "99"), ("3", "4"), ("17", "3", "4", "99"), ("5", "17"):
        write_messages(tmp_path, table(dict.fromkeys(names, 0)))
        if forgets:
            look_again()
    assert held(tmp_path) == once("17", "3", "99", "4", "5")
    assert len(files(tmp_path)) == 3


def test_a_message_that_was_delivered_again_before_it_was_written_is_written_once(
    tmp_path: Path,
) -> None:
    first, again = table({"11": 0, "12": 0}), table({"12": 0, "13": 0})
    write_messages(tmp_path, pa.concat_tables([first, again]))
    assert held(tmp_path) == once("11", "12", "13")
    write_messages(tmp_path, pa.concat_tables([again, first, table({"14": 0}), again]))
    assert held(tmp_path) == once("11", "12", "13", "14")


def test_copies_of_a_message_are_gathered_in_one_part_however_they_are_delivered() -> None:
    pieces = ToMessagePieces(4, Sizes(packed=True))

    def parts(*messages: pa.Table) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for each in messages:
            batch = RawBatch(each, BatchKind.MESSAGES, Origin("pubsub://p/s"))
            for part, (first, size, packed) in pieces.process(batch):
                names = packed.table.column("position").to_pylist()
                assert size > 0 and names[0] == first
                for name in names:
                    found.setdefault(name, set()).add(part)
        return found

    all_of_them = table({f"{at}": at * SECOND // 10 for at in range(100)})
    whole = parts(all_of_them)
    assert whole == parts(*(all_of_them.slice(at, 7) for at in range(0, 100, 7)))
    assert all(len(each) == 1 for each in whole.values()) and len(whole) == 100
    assert set().union(*whole.values()) == set("0123")
    # Of offsets, which are never delivered in two batches at a time, a batch stays whole.
    assert len({part for part, _ in pieces.process(raw(*range(100)))}) == 1


def test_an_id_that_comes_an_hour_later_is_known_too(tmp_path: Path) -> None:
    write_messages(tmp_path, table({"17": HOUR_US - 1}))
    write_messages(tmp_path, table({"17": HOUR_US, "18": HOUR_US}))
    assert held(tmp_path) == once("17", "18")


# --- topics made anew ---------------------------------------------------------------------------


@pytest.mark.parametrize("forgets", [False, True])
@pytest.mark.parametrize("form", ["t/0/{}", "{}"])
def test_a_topic_that_was_made_anew_has_other_messages_at_the_same_places(
    tmp_path: Path, form: str, forgets: bool
) -> None:
    before = table({form.format(n): 0 for n in range(4)})
    place = before.column_names.index("payload")
    payloads = [b"new", None, *before["payload"].to_pylist()[2:]]
    anew = before.set_column(place, MESSAGES.field("payload"), pa.array(payloads, pa.binary()))
    for each in (before, anew, before, anew):
        write_messages(tmp_path, each)
        if forgets:
            look_again()
    found = [
        (row["position"], row["payload"])
        for path in files(tmp_path)
        for row in pq.read_table(path, partitioning=None).to_pylist()
    ]
    wanted = [
        (row["position"], row["payload"])
        for row in [*before.to_pylist(), *anew.slice(0, 2).to_pylist()]
    ]
    assert sorted(found, key=repr) == sorted(wanted, key=repr)


def test_a_replay_that_goes_over_many_files_adds_nothing(tmp_path: Path) -> None:
    for begin in range(0, 60, 4):
        write_messages(tmp_path, offsets(*range(begin, begin + 4)))
    assert len(files(tmp_path)) > archive._FILES
    look_again()
    write_messages(tmp_path, offsets(*range(60)))
    write_messages(tmp_path, offsets(*range(30, 62)))
    assert held(tmp_path) == once(*positions(range(62))) and len(files(tmp_path)) == 16


# --- others, failures ---------------------------------------------------------------------------


def test_what_another_job_wrote_is_found_by_looking_again(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    write_messages(mine, offsets(0, 1))
    write_messages(theirs, offsets(2, 3, 4))
    (there,) = files(theirs)
    shutil.copy(there, files(mine)[0].parent)
    look_again()
    write_messages(mine, offsets(*range(7)))
    assert held(mine) == once(*positions(range(7)))


def test_hours_of_long_ago_are_looked_up_again(tmp_path: Path) -> None:
    stream = {f"t/0/{n}": n * HOUR_US // 2 for n in range(40)}
    write_messages(tmp_path, table(stream))
    assert len(archive._known) <= archive._HOURS
    write_messages(tmp_path, table(stream))
    assert held(tmp_path) == once(*stream)


def test_what_could_not_be_written_is_tried_again(tmp_path: Path) -> None:
    for make in (offsets, lambda *numbers: table({str(n): 0 for n in numbers})):
        blocked = tmp_path / make.__name__.strip("<>")
        blocked.write_text("a file where the folder should be")
        with pytest.raises(LakeFailed, match=rf"{blocked.name}/.* can't be written"):
            write_messages(blocked, make(1, 2))
        blocked.unlink()
        write_messages(blocked, make(1, 2))
        assert sum(held(blocked).values()) == 2


def test_large_batches_are_written_as_they_come(tmp_path: Path) -> None:
    step = ArchiveBatches(LocalStore(str(tmp_path)), "kafka://b/t", same=False)
    step.setup()
    step.process(raw(*range(3)))
    step.process(raw())
    step.process(raw(*range(1, 5)))
    step.finish_bundle()
    root = tmp_path / "raw" / "source=kafka_b_t"
    assert held(root) == once(*positions(range(5))) and len(files(tmp_path)) == 2


# --- streams ------------------------------------------------------------------------------------


def raw(*numbers: int) -> RawBatch:
    messages = offsets(*numbers) if numbers else MESSAGES.empty_table()
    return RawBatch(messages, BatchKind.MESSAGES, Origin("test://archive"))


def archived(tmp_path: Path, polls: list[Polled], kind: type[Script] = Script) -> Script:
    """Plays a live source; before every poll, how many rows each file of the archive has."""
    live.install()
    patches.install()

    def look() -> list[int]:
        return sorted(pq.read_metadata(path).num_rows for path in files(tmp_path))

    script = kind(polls, look)
    pipeline = new_pipeline()
    keyed = (
        pipeline
        | ReadLive("archived", script)
        | beam.Map(lambda batch: (0, batch)).with_output_types(tuple[int, RawBatch])
    )
    _ = keyed | beam.ParDo(ArchiveStream(LocalStore(str(tmp_path)), "test://archive", CLOCK))
    assert ran(pipeline) == "DONE"
    return script


def at(seconds: float, *batches: RawBatch) -> Polled:
    return Polled(list(batches), NOON_US + round(seconds * SECOND))


DONE = Polled([], NOON_US, done=True)


def test_small_batches_are_gathered_for_a_while(tmp_path: Path, monkeypatch: Any) -> None:
    # By the clock: event time, which stands still here, has nothing to say.
    monkeypatch.setattr(archive_steps, "_WAIT_S", 0.5)
    began = steady_us()
    script = archived(
        tmp_path,
        [at(10, raw(0, 1)), at(10, raw(2)), *[at(10)] * 6, at(10, raw(4, 5)), DONE],
        Slow,
    )
    assert script.seen[2] == [] and script.seen[7] == [3] and held(tmp_path)
    # What is gathered holds the positions of the source, since it came.
    assert began < script.waiting[1] == script.waiting[2] < steady_us()
    assert script.waiting[7] == NOTHING_WAITS
    assert script.waiting[9] != NOTHING_WAITS  # the last is written at the end
    assert held(tmp_path) == once(*positions([0, 1, 2, 4, 5]))


def test_many_messages_are_a_file_at_once(tmp_path: Path) -> None:
    whole = [raw(*range(begin, begin + 7_000)) for begin in range(0, 28_000, 7_000)]
    script = archived(tmp_path, [*(at(1, batch) for batch in whole), at(1), DONE])
    assert script.seen == [[], [], [], [21_000], [21_000], [21_000]]
    assert script.waiting[3] == NOTHING_WAITS != script.waiting[4]
    assert sorted(pq.read_metadata(path).num_rows for path in files(tmp_path)) == [7_000, 21_000]


def test_a_batch_without_messages_asks_for_all_that_waits(tmp_path: Path) -> None:
    script = archived(tmp_path, [at(1, raw(0)), at(1, raw()), at(1, raw()), at(1, raw(1)), DONE])
    assert script.seen == [[], [], [1], [1], [1]]
    assert [waits == NOTHING_WAITS for waits in script.waiting] == [True, False, True, True, False]
    assert held(tmp_path) == once(*positions(range(2)))


def test_the_end_of_the_source_has_all_that_waits_written(tmp_path: Path) -> None:
    archived(tmp_path, [at(1, raw(0)), at(2, raw(1)), DONE])
    (path,) = files(tmp_path)
    assert pq.read_metadata(path).num_rows == 2
    moment = dt.datetime.fromtimestamp(NOON_US / SECOND, dt.UTC)
    assert f"dt={moment:%Y-%m-%d}/hr={moment:%H}" in str(path)


def test_a_source_without_messages_leaves_no_file(tmp_path: Path) -> None:
    archived(tmp_path, [at(1), at(61, raw()), DONE])
    assert files(tmp_path) == []
