"""When cycles end: pieces of any size, late readings, restarts, and what waits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from schemas import profiles
from transforms import identity
from transforms.batch import PackedBatch
from transforms.cycles import ended, memory
from transforms.cycles.ended import OpenCycles
from transforms.cycles.memory import Kept, Shard, by_shard, heads_of, heads_table, together
from transforms.cycles.table import cycle_rows
from transforms.limits import Limits

START_US = 1_700_000_000_000_000
MINUTE_US = 60_000_000
PROFILES = profiles.load()


def readings(cycles: int = 4, name: str = "cell", numbered: bool = True) -> pa.Table:
    """A cell that is charged with 1 A for 20 minutes and discharged for 20, cycle after cycle."""
    size = 40 * cycles
    at = np.arange(size)
    up = (at % 40) < 20
    columns = {
        "equipment_id": pa.array([name] * size).dictionary_encode(),
        "equipment_type": pa.array(["battery_cell"] * size).dictionary_encode(),
        "test_id": pa.array(["test"] * size).dictionary_encode(),
        "recorded_at": pa.array(START_US + at * MINUTE_US).cast(pa.timestamp("us", "UTC")),
        "test_time_s": 60.0 * at,
        "voltage_v": np.where(up, 3.6 + 0.01 * (at % 20), 3.8 - 0.01 * (at % 20)),
        "current_a": np.where(up, 1.0, -1.0),
        "temperature_c": 25.0 + (at % 3),
        "flags": np.zeros(size, dtype=np.int64),
        "profile": pa.array(np.zeros(size), pa.int32()),
        "id_high": np.arange(size, dtype=np.uint64) + np.uint64(hash(name) % 2**32),
        "id_low": np.arange(size, dtype=np.uint64),
    }
    if numbered:
        columns["cycle_index"] = at // 40 + 1
        columns["step_index"] = np.where(up, 1, 2)
    table = pa.table(columns)
    profile = pa.array(Limits(PROFILES).rows(table), pa.int32())
    return table.set_column(table.column_names.index("profile"), "profile", profile)


def fed(cells: OpenCycles, pieces: list[pa.Table], keep: bool = False) -> pa.Table:
    """The rows of all cycles that end with these pieces."""
    out = []
    for piece in pieces:
        latest = int(piece.column("recorded_at").cast(pa.int64()).to_numpy().max())
        found = cells.feed(piece, 0 if keep else latest)
        if found is not None and found.cycles:
            out.append(cycle_rows(found, cells.limits))
    return pa.concat_tables(out) if out else pa.table({})


def cut(table: pa.Table, size: int) -> list[pa.Table]:
    return [table.slice(at, size).combine_chunks() for at in range(0, table.num_rows, size)]


def without_ids(table: pa.Table) -> list[dict[str, object]]:
    return sorted(table.to_pylist(), key=lambda row: row["cycle_number"])


@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize("size", [1, 7, 40, 1000])
def test_pieces_of_any_size_give_the_same_cycles(size: int, numbered: bool) -> None:
    table = readings(5, numbered=numbered)
    whole = OpenCycles(PROFILES, 0, bounded=True)
    expected = without_ids(fed(whole, [table]))
    given = without_ids(fed(OpenCycles(PROFILES, 0, bounded=True), cut(table, size)))
    assert given == expected
    assert len(expected) >= 3
    inner = expected[1]
    assert inner["readings"] == 40 and inner["is_ended"] and inner["is_whole"]
    assert inner["charge_ah"] == pytest.approx(20 / 60, abs=0.02)
    assert inner["is_cycle_derived"] is not numbered


def test_what_goes_on_is_given_at_the_end_of_the_input() -> None:
    cells = OpenCycles(PROFILES, 0, bounded=True)
    fed(cells, [readings(3)])
    last = cells.look(None, 0, final=True)
    assert last is not None
    (row,) = cycle_rows(last, cells.limits).to_pylist()
    assert (row["cycle_index"], row["is_ended"]) == (3, False)
    assert sum(piece.num_rows for piece in cells.pieces) >= 40  # it waits for another run


def test_a_late_reading_corrects_its_cycle() -> None:
    table = readings(4)
    late = table.slice(50, 1)
    rest = pa.concat_tables([table.slice(0, 50), table.slice(51)]).combine_chunks()
    cells = OpenCycles(PROFILES, 10**15, bounded=True)
    first = {row["cycle_index"]: row for row in fed(cells, [rest], keep=True).to_pylist()}
    assert first[2]["readings"] == 39 and first[2]["version"] == 1
    (again,) = fed(cells, [late.combine_chunks()], keep=True).to_pylist()
    assert (again["cycle_index"], again["version"], again["readings"]) == (2, 2, 40)
    assert again["cycle_id"] == first[2]["cycle_id"]
    assert again["version_id"] != first[2]["version_id"]
    # Once more changes nothing.
    assert fed(cells, [late.combine_chunks()], keep=True).num_rows == 0


def test_of_a_cycle_that_is_done_with_nothing_waits() -> None:
    cells = OpenCycles(PROFILES, 0, bounded=True)
    fed(cells, cut(readings(30), 10))
    waiting = sum(piece.num_rows for piece in cells.pieces)
    assert waiting <= 40 + ended._CONTEXT + 10


def test_a_live_job_that_begins_in_the_middle_says_so() -> None:
    cells = OpenCycles(PROFILES, 0, bounded=False)
    rows = without_ids(fed(cells, cut(readings(4).slice(10).combine_chunks(), 25)))
    assert [row["is_whole"] for row in rows] == [False, True, True]
    from_start = without_ids(fed(OpenCycles(PROFILES, 0, bounded=False), cut(readings(4), 25)))
    assert [row["is_whole"] for row in from_start] == [True, True, True]


def test_a_cycle_of_more_readings_than_are_kept_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ended, "MOST_READINGS", 30)
    cells = OpenCycles(PROFILES, 0, bounded=True)
    rows = without_ids(fed(cells, cut(readings(3), 5)))
    assert not any(row["is_whole"] for row in rows)
    assert sum(piece.num_rows for piece in cells.pieces) <= 30 + ended._CONTEXT + 5


class Bag:
    def __init__(self) -> None:
        self.values: list[PackedBatch] = []

    def add(self, value: PackedBatch) -> None:
        self.values.append(value)

    def read(self) -> list[PackedBatch]:
        return list(self.values)

    def clear(self) -> None:
        self.values = []


class Value:
    value: PackedBatch | None = None

    def read(self) -> PackedBatch | None:
        return self.value

    def write(self, value: PackedBatch) -> None:
        self.value = value


@pytest.mark.parametrize("numbered", [True, False])
def test_state_gives_what_memory_gives(numbered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_MOST_PIECES", 3)
    table = readings(5, numbered=numbered)
    expected = without_ids(fed(OpenCycles(PROFILES, 0, bounded=False), cut(table, 4)))
    rows, heads, out = Bag(), Value(), []
    for piece in cut(table, 4):
        latest = int(piece.column("recorded_at").cast(pa.int64()).to_numpy().max())
        shard = Shard(PROFILES, 0, rows, heads)
        found, change = shard.feed(piece, latest)
        assert change is not None and len(rows.values) <= 3
        if found is not None and found.cycles:
            out.append(cycle_rows(found, shard.limits))
    assert without_ids(pa.concat_tables(out)) == expected


def test_a_run_with_other_shards_goes_on_where_the_last_one_stopped() -> None:
    cells = {name: readings(5, name) for name in ("a", "b", "c")}
    expected = {
        name: without_ids(fed(OpenCycles(PROFILES, 0, bounded=False), cut(table, 30)))
        for name, table in cells.items()
    }
    before = OpenCycles(PROFILES, 0, bounded=False)
    found = [fed(before, cut(table.slice(0, 90).combine_chunks(), 30)) for table in cells.values()]
    kept = together([(heads_table(before.heads), before.pieces)])
    assert kept is not None
    kept = memory.with_profiles(kept, Limits(PROFILES))
    seen = set()
    for _, part in by_shard(kept, identity.shards, 5):
        after = OpenCycles(PROFILES, 0, bounded=False)
        after.heads, after.pieces = heads_of(part.heads), [part.rows]
        seen |= set(after.heads)
        found += [
            fed(after, cut(cells[name].slice(90).combine_chunks(), 30)) for name in after.heads
        ]
    assert seen == set(cells)
    rows = pa.concat_tables([each for each in found if each.num_rows]).to_pylist()
    for name, of_cell in expected.items():
        mine = [row for row in rows if row["equipment_id"] == name]
        assert sorted(mine, key=lambda row: row["cycle_number"]) == of_cell


def test_heads_are_read_as_they_were_written() -> None:
    cells = OpenCycles(PROFILES, 10**15, bounded=False)
    fed(cells, cut(readings(4), 25), keep=True)
    fed(cells, cut(readings(4, "other", numbered=False), 25), keep=True)
    again = heads_of(heads_table(cells.heads))
    assert {name: repr(head) for name, head in again.items()} == {
        name: repr(head) for name, head in cells.heads.items()
    }
    assert cells.heads["cell"].emitted and replace(cells.heads["cell"]).noise is not None


def test_nothing_that_is_kept_is_nothing() -> None:
    assert together([]) is None
    assert isinstance(together([(heads_table({}), [readings(1)])]), Kept)
