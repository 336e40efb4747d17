import itertools
import math
from dataclasses import replace

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.forms import flag_names
from tests.messages import ARRIVED_US, NOW_US, SECOND, START_US, limits, rows
from tests.transforms.reference import COUNTERS, _key, expected
from transforms.batch import stack
from transforms.decode import decode
from transforms.interpret.decide import plain
from transforms.sequence import DERIVED, gathered, sequence, tail_problem
from transforms.validate import validate

COMPARED = ("streamed_at", "id_high", "id_low", "flags", *DERIVED)


def table_of(readings, compared=False):
    """Validated readings. `name`, a number, travels as the time they were sent."""
    names = sorted({name for reading in readings for name in reading} - {"seconds", "name"})
    columns = {name: [reading.get(name) for reading in readings] for name in names}
    for field, micros in (
        ("recorded_at", [START_US + round(reading["seconds"] * SECOND) for reading in readings]),
        ("streamed_at", [START_US + reading["name"] for reading in readings]),
    ):
        columns[field] = pa.array(micros, pa.timestamp("us", tz="UTC"))
    raw = rows(columns)
    if not compared:
        raw = replace(raw, origin=replace(raw.origin, reading=plain(raw.table)))
    decoded, refused = decode(raw)
    assert not refused.rows
    table, refused = validate(decoded, limits(), NOW_US + ARRIVED_US)
    assert not refused.rows
    return table


def cell(seconds, **fields):
    """A reading named by its time in milliseconds."""
    return {
        "name": round(seconds * 1000), "seconds": seconds, "equipment_id": "CS2_35", "test_id": "t",
        "voltage_v": 3.7, "current_a": 0.5, **fields,
    }  # fmt: skip


def run(*parts, keep_from=None):
    """The outcomes of `parts`, one after another with what each leaves behind."""
    tail, out = None, []
    for number, part in enumerate(parts):
        since = None if keep_from is None else START_US + round(keep_from[number] * SECOND)
        found = sequence(table_of(part), tail, limits(), since)
        tail = found.tail
        out.append(found)
    return out


def by_name(*found):
    """name → the DERIVED columns and `flags` as a set, of all outcomes."""
    out = {}
    for part in found:
        sent = part.table.column("streamed_at").cast(pa.int64()).to_pylist()
        for micros, row in zip(
            sent, part.table.select(["flags", *DERIVED]).to_pylist(), strict=True
        ):
            assert micros - START_US not in out
            out[micros - START_US] = row | {"flags": set(flag_names(row["flags"]))}
    return out


def deltas(*found):
    return {name: row["time_delta_s"] for name, row in sorted(by_name(*found).items())}


def flagged(flag, *found):
    return sorted(name for name, row in by_name(*found).items() if flag in row["flags"])


def check(found, readings):
    wanted, duplicates = expected(readings)
    got = by_name(*found)
    assert set(got) == set(wanted)
    assert sum(part.duplicates for part in found) == duplicates
    for name, row in wanted.items():
        assert got[name]["flags"] == row["flags"], name
        for column in DERIVED:
            if row[column] is None:
                assert got[name][column] is None, (name, column)
            else:
                assert got[name][column] == pytest.approx(row[column], rel=1e-9, abs=1e-12), (
                    name, column,
                )  # fmt: skip


# --- against the slow reference ----------------------------------------------------------------

TICKS = st.integers(0, 400).map(lambda tick: tick / 4)
READINGS = st.fixed_dictionaries(
    {
        "equipment_id": st.sampled_from(["CS2_35", "CS2_36", "x"]),
        "test_id": st.sampled_from(["t", "u"]),
        "seconds": st.one_of(TICKS, st.sampled_from([300.0, 420.0, 420.25, 2300.0])),
        "voltage_v": st.sampled_from([3.7, 3.71, 4.19, 4.2, 2.8]),
        "current_a": st.sampled_from([0.5, 0.502, -0.5, 0.0, -1.1, 0.05]),
        "test_time_s": st.one_of(st.none(), TICKS),
        "record_index": st.one_of(st.none(), st.integers(1, 3)),
    },
    optional={
        "step_index": st.integers(1, 2),
        "cycle_index": st.integers(1, 2),
        "source_file": st.sampled_from(["a/1.csv", "a/2.csv"]),
        "charge_capacity_ah": st.sampled_from([0.0, 0.005, 0.02, 0.5]),
        "discharge_capacity_ah": st.sampled_from([0.0, 0.5]),
        "charge_energy_wh": st.sampled_from([0.0, 0.5]),
        "discharge_energy_wh": st.sampled_from([0.5, 0.0]),
    },
)


def without_ties(found):
    """Numbered; of readings that no number orders, only the first: their order is a hash's.

    Of two versions of one reading that come together, too.
    """
    kept, seen, versions = [], set(), {}
    for reading in found:
        content = {k: v for k, v in reading.items() if k not in ("source_file", "test_id")}
        if versions.setdefault(_key(reading), content) != content:
            continue
        if reading["record_index"] is None:
            place = (reading["equipment_id"], reading["seconds"], reading["test_time_s"])
            if place in seen:
                continue
            seen.add(place)
        kept.append({**reading, "name": len(kept)})
    return kept


SCENES = st.lists(READINGS, min_size=1, max_size=40).map(without_ties)


@given(SCENES)
@settings(max_examples=80)
def test_any_readings_in_one_go(readings):
    check(run(readings), readings)


@given(SCENES, st.lists(TICKS, max_size=5), st.sampled_from([None, 0.0, 10.0, 1e9]))
@settings(max_examples=80)
def test_any_number_of_calls_in_time_order_gives_the_same(readings, borders, kept_s):
    if kept_s is not None:  # of an equipment's tests only the latest is remembered then
        readings = [{**reading, "test_id": "t"} for reading in readings]
    edges = [-1.0, *sorted(borders), math.inf]
    parts, since = [], []
    for low, high in itertools.pairwise(edges):
        if part := [reading for reading in readings if low <= reading["seconds"] < high]:
            parts.append(part)
            since.append(min(high, 1e6) - (kept_s or 0.0))
    found = run(*parts, keep_from=None if kept_s is None else since)
    whole = run(readings)[0].table.select(COMPARED).sort_by("streamed_at")
    split = pa.concat_tables([part.table.select(COMPARED) for part in found]).sort_by("streamed_at")
    assert split.to_pylist() == whole.to_pylist()


@given(SCENES, st.randoms(use_true_random=False))
def test_the_order_of_the_input_makes_no_difference(readings, random):
    # Copies of one reading that only their file tells apart are told apart by its name.
    shuffled = [{**r, "source_file": f"{r['name']:03}"} for r in readings]
    wanted = run(shuffled)[0]
    random.shuffle(shuffled)
    found = run(shuffled)[0]
    assert found.table.select(COMPARED).equals(wanted.table.select(COMPARED))
    assert found.duplicates == wanted.duplicates


@given(SCENES)
def test_the_output_is_in_the_order_promised(readings):
    found = run(readings)[0].table
    names = ("equipment_id", "test_id", "recorded_at", "test_time_s", "record_index")
    present = [name for name in names if name in found.column_names]
    keys = [
        tuple((value is None, value) if name in names[3:] else value for name, value in row.items())
        for row in found.select(present).to_pylist()
    ]
    assert keys == sorted(
        keys, key=lambda key: tuple(str(type(k)) if k is None else k for k in key)
    )


def test_a_long_recording_of_many_cells():
    random = np.random.default_rng(1)
    readings, name = [], 0
    for equipment in ("CS2_35", "CS2_36", "z"):
        for test in ("t", "u"):
            seconds = 0.0
            for _ in range(200):
                seconds += float(random.choice([0.0, 0.25, 30.0, 60.0, 121.0]))
                name += 1
                readings.append({
                    "name": name, "equipment_id": equipment, "test_id": test, "seconds": seconds // 1,
                    "test_time_s": None if random.random() < 0.1 else seconds, "record_index": name,
                    "voltage_v": float(random.choice([3.7, 3.8, 4.19])),
                    "current_a": float(random.choice([0.5, 0.5, 0.5, -1.0, 0.0])),
                    "step_index": int(random.integers(1, 3)), "cycle_index": 1,
                    "charge_capacity_ah": seconds / 3600 * 0.5 % 0.1,
                })  # fmt: skip
    random.shuffle(readings)
    check(run(readings), readings)


def test_time_deltas_are_what_sql_says():
    random = np.random.default_rng(2)
    size = 5_000
    seconds = np.sort(random.integers(0, 3_000, size)).astype(float)
    readings = [
        {"name": at, "equipment_id": f"CS2_{random.integers(5)}", "test_id": f"t{random.integers(3)}",
         "seconds": second, "test_time_s": None if random.random() < 0.3 else second % 700 + at / 1e5,
         "record_index": at, "voltage_v": 3.7, "current_a": 0.0}
        for at, second in enumerate(seconds.tolist())
    ]  # fmt: skip
    random.shuffle(readings)
    source = pa.Table.from_pylist(readings)
    with duckdb.connect() as connection:
        connection.register("source", source)
        wanted = connection.sql(
            """
            SELECT name, CASE WHEN test_time_s - lag(test_time_s) OVER test >= 0
                              THEN test_time_s - lag(test_time_s) OVER test
                              ELSE seconds - lag(seconds) OVER test END
            FROM source
            WINDOW test AS (PARTITION BY equipment_id, test_id
                            ORDER BY seconds, test_time_s NULLS LAST, record_index)
            """
        ).fetchall()
    borders = [0, 700, 701, 2_000, 3_001]
    parts = [
        [reading for reading in readings if low <= reading["seconds"] < high]
        for low, high in itertools.pairwise(borders)
    ]
    assert deltas(*run(*parts)) == dict(sorted(wanted))


# --- time deltas -------------------------------------------------------------------------------


def test_readings_of_one_second_are_put_in_order_by_test_time_and_record():
    found = run([
        cell(1, name=3, test_time_s=1.5), cell(1, name=2, test_time_s=1.25),
        cell(0, name=1, test_time_s=0.0), cell(1, name=4), cell(1, name=5, record_index=7),
        cell(1, name=6, record_index=2), cell(1, name=7, test_time_s=1.5, record_index=9),
    ])  # fmt: skip
    names = pc.subtract(found[0].table.column("streamed_at").cast(pa.int64()), START_US).to_pylist()
    # With a test time first (by record, then without one), then by record, then the rest.
    assert names == [1, 2, 7, 3, 6, 5, 4]
    assert deltas(*found) == {1: None, 2: 1.25, 7: 0.25, 3: 0.0, 6: 0.0, 5: 0.0, 4: 0.0}


def test_where_test_time_runs_backwards_event_time_counts():
    found = run([
        cell(0, test_time_s=100.0), cell(30, test_time_s=5.0), cell(60, test_time_s=35.015),
        cell(90), cell(91, test_time_s=36.0), cell(91.5, test_time_s=36.0),
    ])  # fmt: skip
    assert list(deltas(*found).values()) == [None, 30.0, pytest.approx(30.015), 30.0, 1.0, 0.0]


def test_tests_and_equipments_never_mix():
    found = run(
        [
            cell(0),
            cell(1, test_id="u"),
            cell(2, equipment_id="x"),
            cell(3, equipment_id="x", test_id="u"),
        ],
        [cell(10), cell(12, test_id="u"), cell(15, equipment_id="x"), cell(19, equipment_id="y")],
    )
    assert deltas(*found) == {
        0: None, 1_000: None, 2_000: None, 3_000: None, 10_000: 10, 12_000: 11, 15_000: 13, 19_000: None,
    }  # fmt: skip


def test_machines_without_a_test_have_deltas_too():
    pump = {
        "equipment_id": "pump",
        "equipment_type": "machine",
        "frequency_hz": 50.0,
        "test_id": None,
    }
    found = run([cell(0, **pump), cell(2, **pump), cell(1)], [cell(5, **pump)])
    assert deltas(*found) == {0: None, 1_000: None, 2_000: 2.0, 5_000: 3.0}


# --- duplicates --------------------------------------------------------------------------------


def test_of_copies_in_several_files_the_first_by_name_stays():
    copies = [cell(0, name=at, record_index=1, source_file=file)
              for at, file in enumerate(["CS2/b.xlsx", "CS2/a.xlsx", "CS2/c.xlsx"])]  # fmt: skip
    for turned in (copies, copies[::-1], [copies[2], copies[0], copies[1]]):
        (found,) = run(turned)
        assert list(by_name(found)) == [1]
        assert found.duplicates == 2


def test_a_copy_of_what_was_released_is_dropped_whatever_its_file():
    first, second = run(
        [cell(0, test_time_s=0.0, source_file="b"), cell(1, test_time_s=1.0)],
        [cell(1, name=9, test_time_s=1.0, source_file="a"), cell(2, test_time_s=2.0)],
    )
    assert (first.duplicates, second.duplicates) == (0, 1)
    assert deltas(first, second) == {0: None, 1_000: 1.0, 2_000: 1.0}


def test_how_far_back_copies_are_known_is_how_far_back_the_tail_goes():
    parts = [[cell(0), cell(1), cell(2)], [cell(0, name=7), cell(1, name=8), cell(2, name=9)]]
    assert run(*parts, keep_from=[0, 0])[1].duplicates == 3
    kept = run(*parts, keep_from=[2, 2])[1]  # the last one before it is kept as well
    assert kept.duplicates == 2
    assert flagged("late", kept) == [7]


def test_the_same_second_with_another_test_time_is_another_reading():
    (found,) = run([cell(0, test_time_s=1.0), cell(0, name=5, test_time_s=1.003)])
    assert found.duplicates == 0
    assert deltas(found) == {0: None, 5: pytest.approx(0.003)}


# --- late readings -----------------------------------------------------------------------------


def test_a_late_reading_the_tail_still_reaches_finds_its_place():
    found = run([cell(0), cell(10), cell(20)], [cell(14), cell(12), cell(30)], keep_from=[5, 15])
    assert deltas(*found) == {0: None, 10_000: 10, 20_000: 10, 12_000: 2, 14_000: 2, 30_000: 10}
    assert flagged("late", *found) == []


def test_a_late_reading_just_behind_the_last_one_before_the_border_finds_its_place():
    found = run([cell(0), cell(10), cell(20)], [cell(5.5)], keep_from=[15, 15])
    assert deltas(found[1]) == {5_500: None}
    assert flagged("late", *found) == [5_500]
    found = run([cell(0), cell(10), cell(20)], [cell(10.5)], keep_from=[15, 15])
    assert deltas(found[1]) == {10_500: 0.5}
    assert flagged("late", *found) == []


def test_a_reading_later_than_that_is_late_and_has_no_delta():
    found = run([cell(10), cell(20)], [cell(1), cell(2), cell(30)], [cell(40)])
    assert deltas(*found) == {
        1_000: None, 2_000: None, 10_000: None, 20_000: 10, 30_000: 10, 40_000: 10,
    }  # fmt: skip
    assert flagged("late", *found) == [1_000, 2_000]
    late = by_name(*found)[2_000]
    assert [late[name] for name in DERIVED[1:]] == [0.0] * 4


def test_the_first_reading_of_a_test_is_not_late_whatever_else_is_known():
    found = run([cell(10)], [cell(1, test_id="u"), cell(1, equipment_id="x", name=5)])
    assert flagged("late", *found) == []


def test_a_late_reading_moves_nothing_back():
    late = [cell(t / 2, voltage_v=3.7) for t in range(6)]
    stuck = [cell(t) for t in range(10, 18)], [cell(t) for t in range(18, 22)]
    found = run(stuck[0], late, stuck[1])
    assert flagged("stuck", *found) == flagged("stuck", *run(*stuck)) == [19_000, 20_000, 21_000]
    assert deltas(found[2])[18_000] == 1.0


# --- flags -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "before", "longest"),
    [
        ({}, {}, 120.0),
        ({"voltage_v": 4.2}, {"voltage_v": 4.2}, 1800.0),
        ({"voltage_v": 4.18}, {"voltage_v": 4.18}, 1800.0),
        ({"voltage_v": 4.179}, {"voltage_v": 4.2}, 120.0),
        ({"voltage_v": 4.2}, {}, 120.0),
        ({"voltage_v": 4.2, "current_a": -0.5}, {"voltage_v": 4.2}, 120.0),
        ({"voltage_v": 4.2, "current_a": 0.0}, {"voltage_v": 4.2}, 120.0),
        ({"equipment_type": "machine"}, {"equipment_type": "machine"}, 300.0),
    ],
)
def test_a_gap_is_longer_than_the_profile_allows(now, before, longest):
    free = {"equipment_id": "z"}
    for delta, gap in ((longest, []), (longest + 0.001, [round(longest * 1000) + 1])):
        found = run([cell(0, **free, **before), cell(delta, **free, **now)])
        assert flagged("gap", *found) == gap
        again = run([cell(0, **free, **before)], [cell(delta, **free, **now)])
        assert flagged("gap", *again) == gap


@pytest.mark.parametrize("sizes", [(6,), (1,) * 6, (2, 4)])
def test_a_test_that_is_logged_seldom_has_no_gaps_but_its_first(sizes):
    at = iter(range(0, 3600, 600))
    found = run(*[[cell(next(at)) for _ in range(size)] for size in sizes])
    # The first interval is all that is known of how often it is logged.
    assert flagged("gap", *found) == [600_000]


def test_a_pause_in_a_test_that_is_logged_seldom_is_a_gap():
    found = run([cell(at) for at in (0, 600, 1200, 1800, 9000, 9600)])
    assert flagged("gap", *found) == [600_000, 9_000_000]


def test_a_file_that_tells_its_interval_has_no_gap_at_all():
    table = table_of([cell(at) for at in range(0, 6000, 600)], compared=True)
    assert flagged("gap", sequence(table, None, limits())) == []


def test_nothing_is_integrated_over_a_gap_but_its_length_is_kept():
    found = by_name(*run([cell(0), cell(121)]))[121_000]
    assert found["time_delta_s"] == 121.0
    assert [found[name] for name in DERIVED[1:]] == [0.0] * 4


@pytest.mark.parametrize("sizes", [(12,), (9, 3), (1, 1, 10), (1,) * 12])
@pytest.mark.parametrize("keep_s", [None, 0, 3, 1e6])
def test_the_tenth_equal_voltage_in_a_row_is_stuck(sizes, keep_s):
    parts, at = [], 0
    for size in sizes:
        parts.append([cell(second) for second in range(at, at + size)])
        at += size
    since = None if keep_s is None else [part[-1]["seconds"] + 1 - keep_s for part in parts]
    found = run(*parts, keep_from=since)
    assert flagged("stuck", *found) == [9_000, 10_000, 11_000]


@pytest.mark.parametrize(
    ("fields", "stuck"),
    [
        ({"current_a": 0.0}, False),
        ({"voltage_v": 4.2}, False),  # constant voltage
        ({"voltage_v": 4.2, "current_a": -0.5}, True),
        ({"voltage_v": 4.17}, True),
    ],
)
def test_equal_voltages_are_stuck_only_while_a_constant_current_should_move_them(fields, stuck):
    found = run([cell(second, **fields) for second in range(10)])
    assert flagged("stuck", *found) == ([9_000] if stuck else [])


@pytest.mark.parametrize(
    "broken", [{"voltage_v": 3.701}, {"current_a": 0.6}, {"current_a": -0.5}, {"test_id": "u"}]
)
def test_whatever_moves_ends_the_run(broken):
    readings = [cell(second) for second in range(9)]
    readings += [cell(9, **broken)] + [cell(second, **broken) for second in range(10, 18)]
    assert flagged("stuck", *run(readings)) == []
    assert flagged("stuck", *run(readings[:5], readings[5:])) == []


def test_a_late_reading_breaks_the_run_of_those_behind_it():
    readings = [cell(second) for second in range(6)]
    found = run(
        readings, [cell(4.5, voltage_v=3.8)], [cell(s) for s in range(6, 15)], keep_from=[0] * 3
    )
    assert flagged("stuck", *found) == [14_000]


@pytest.mark.parametrize("counter", COUNTERS)
def test_a_counter_that_drops_was_reset(counter):
    def found(*values):
        parts = [[cell(at, **{counter: value}) for at, value in enumerate(values)]]
        parts += [[cell(9, **{counter: 0.5})]]
        return flagged("counter_reset", *run(*parts))

    assert found(1.0, 1.0, 0.4999, 0.4999, 1.1) == [2_000, 9_000]
    assert found(0.9, 0.9 - 1e-10, 0.4) == [2_000]  # noise is none
    assert found(1.0, None, 0.5) == []  # its neighbour does not say


@pytest.mark.parametrize("counter", COUNTERS)
def test_a_counter_that_falls_a_little_has_not_restarted(counter):
    values = [0.6, 0.7, 0.6995, 0.71]
    found = run([cell(at, **{counter: value}) for at, value in enumerate(values)])
    assert flagged("counter_dip", *found) == [2_000]
    assert flagged("counter_reset", *found) == []


@pytest.mark.parametrize("counter", COUNTERS)
@pytest.mark.parametrize(
    ("currents", "rise", "jumps"),
    [
        ((0.0, 0.0), 0.010, False),
        ((0.0, 0.0), 0.0101, True),
        ((-1.0, 0.0), 0.0199, False),  # the larger of the two currents for 36 s: 10 mAh
        ((0.0, 1.0), 0.0199, False),
        ((0.5, 1.0), 0.0201, True),
    ],
)
def test_a_counter_that_rises_by_more_than_the_current_can_carry_jumped(
    counter, currents, rise, jumps
):
    readings = [cell(0, current_a=currents[0], **{counter: 0.0}),
                cell(36, current_a=currents[1], **{counter: rise})]  # fmt: skip
    wanted = [36_000] if jumps and counter.endswith("_ah") else []
    assert flagged("counter_jump", *run(readings)) == wanted
    assert flagged("counter_jump", *run(readings[:1], readings[1:])) == wanted


def test_flags_set_before_stay():
    high = {"voltage_v": 9.0, "current_a": -0.5}
    found = run([cell(0, **high), cell(500, **high)])
    assert by_name(*found)[500_000]["flags"] == {"gap", "voltage_out_of_range"}


# --- integration -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "now", "charge", "discharge", "energy"),
    [
        ({}, {}, 0.005, 0.0, 0.0185),
        ({"current_a": 1.0}, {}, 0.0075, 0.0, 0.02775),  # trapezoid
        ({"current_a": 1.0, "step_index": 1}, {"step_index": 2}, 0.005, 0.0, 0.0185),  # rectangle
        ({"current_a": 1.0, "cycle_index": 1}, {"cycle_index": 2}, 0.005, 0.0, 0.0185),
        ({"current_a": -1.0}, {}, 0.005, 0.0, 0.0185),
        ({"current_a": 0.0}, {}, 0.005, 0.0, 0.0185),
        ({"current_a": -1.0}, {"current_a": -0.5}, 0.0, 0.0075, 0.02775),
        ({}, {"current_a": 0.0}, 0.0, 0.0, 0.0),
        ({"step_index": 3, "cycle_index": 2, "current_a": 1.0}, {"step_index": 3, "cycle_index": 2},
         0.0075, 0.0, 0.02775),
    ],
)  # fmt: skip
def test_the_integration_rule(before, now, charge, discharge, energy):
    readings = [cell(0, **before), cell(36, **now)]
    for found in (run(readings), run(readings[:1], readings[1:])):
        row = by_name(*found)[36_000]
        assert row["charge_ah"] == pytest.approx(charge, abs=1e-15)
        assert row["discharge_ah"] == pytest.approx(discharge, abs=1e-15)
        assert row["charge_wh"] == pytest.approx(energy if charge else 0.0, abs=1e-15)
        assert row["discharge_wh"] == pytest.approx(energy if discharge else 0.0, abs=1e-15)


def test_energy_is_the_integral_of_power():
    readings = [cell(0, voltage_v=3.0, current_a=1.0), cell(36, voltage_v=4.0, current_a=2.0)]
    assert by_name(*run(readings))[36_000]["charge_wh"] == pytest.approx((3 + 8) / 2 / 100)


def test_what_is_remembered_is_bounded_by_the_equipments():
    parts = [[cell(at * 100 + second) for second in range(100)] for at in range(5)]
    tail = run(*parts)[-1].tail
    assert tail.num_rows == 1
    assert "extra" not in tail.column_names
    assert run(*parts, keep_from=[490] * 5)[-1].tail.num_rows == 11


def test_equipments_and_times_too_many_for_one_number_are_sorted_all_the_same():
    # 6,000 cells over 54 years: rank and microseconds together pass 64 bits.
    times = (10.0, 5.0, -1.7e9)
    far = [
        cell(t, equipment_id=f"c{n:04}", name=n * 3 + at)
        for n in range(6000)
        for at, t in enumerate(times)
    ]
    found = deltas(*run(far))
    assert [found[at] for at in range(3)] == [5.0, 1.7e9 + 5.0, None]
    assert list(found.values()) == [found[at] for at in range(3)] * 6000


# --- versions ----------------------------------------------------------------------------------


def arriving(hours, *readings):
    """Validated readings that arrived so many hours after the others of the tests."""
    table = table_of(list(readings))
    place = table.column_names.index("ingested_at")
    later = pc.add(table.column("ingested_at").cast(pa.int64()), hours * 3_600_000_000)
    return table.set_column(place, "ingested_at", later.cast(pa.timestamp("us", "UTC")))


def measured(seconds, volts, **fields):
    return cell(seconds, record_index=seconds, voltage_v=volts, **fields)


def volts(table):
    return [] if table is None else table.column("voltage_v").to_pylist()


def test_of_versions_that_come_together_the_newest_counts_and_the_others_are_given_on():
    parts = [arriving(hours, measured(1, 3.0 + hours), measured(2, 3.0)) for hours in (1, 3, 2)]
    for turned in itertools.permutations(parts):
        found = sequence(stack(turned), None, limits())
        assert volts(found.table) == [6.0, 3.0]
        assert sorted(volts(found.superseded)) == [4.0, 5.0]
        assert found.duplicates == 2
        assert set(found.superseded.column("superseded_by").to_pylist()) == set(
            found.table.column("content_id").to_pylist()[:1]
        )
        names = [flag_names(mask) for mask in found.superseded.column("flags").to_pylist()]
        assert all("superseded" in each for each in names)
        first = sequence(stack(turned), None, limits(), first_stays=True)
        assert volts(first.table) == [4.0, 3.0]


def test_a_version_arrived_when_its_first_copy_did():
    old = measured(1, 3.5)
    table = stack([arriving(1, old), arriving(2, measured(1, 3.6)), arriving(3, old)])
    found = sequence(table, None, limits())
    assert (volts(found.table), volts(found.superseded), found.duplicates) == ([3.6], [3.5], 1)


def test_a_copy_that_stays_has_the_arrival_of_the_first():
    late, early = measured(1, 3.5, source_file="a.csv"), measured(1, 3.5, source_file="b.csv")
    first = arriving(1, early).column("ingested_at")[0]
    for others in ([], [arriving(3, measured(1, 3.6, source_file="c.csv"))]):
        found = sequence(stack([arriving(5, late), arriving(1, early), *others]), None, limits())
        stays = found.superseded if others else found.table
        assert stays.column("source_file").to_pylist() == ["a.csv"]
        assert stays.column("ingested_at").to_pylist() == [first.as_py()]
    # What the state remembers too: the next window's version that came between the two counts.
    tail = sequence(arriving(5, late), None, limits(), START_US).tail
    again = sequence(arriving(1, early), tail, limits(), START_US)
    newer = sequence(arriving(3, measured(1, 3.6)), again.tail, limits(), START_US)
    assert (again.duplicates, volts(newer.table), newer.replaced) == (1, [3.6], 1)


def test_a_correction_of_what_was_released_takes_its_place_and_state_does_not_grow():
    sizes = set()
    tail = sequence(
        arriving(0, *(measured(at, 3.5) for at in range(10))), None, limits(), START_US
    ).tail
    for hours in range(1, 6):
        found = sequence(arriving(hours, measured(5, 3.5 + hours)), tail, limits(), START_US)
        assert (volts(found.table), found.replaced, found.duplicates) == ([3.5 + hours], 1, 0)
        assert found.table.column("time_delta_s").to_pylist() == [1.0]
        assert found.superseded is None
        tail = found.tail
        sizes.add(tail.num_rows)
    assert sizes == {10}
    # An older version that comes now loses, and what stands is no new one.
    late = sequence(arriving(2, measured(5, 9.0)), tail, limits(), START_US)
    assert (volts(late.table), volts(late.superseded), late.replaced) == ([], [9.0], 0)
    again = sequence(arriving(7, measured(5, 8.5)), tail, limits(), START_US)
    assert (again.duplicates, volts(again.table), again.superseded) == (1, [], None)


def test_the_last_digits_of_a_conversion_make_no_version():
    found = sequence(
        stack([arriving(0, measured(1, 3.3000000000000003)), arriving(1, measured(1, 3.3))]),
        None,
        limits(),
    )
    assert (found.duplicates, found.superseded) == (1, None)


@pytest.mark.parametrize("first_stays", [False, True])
def test_what_an_older_version_of_the_job_remembers_has_no_content_and_hides_no_correction(
    first_stays,
):
    tail = sequence(table_of([measured(1, 3.5), measured(2, 3.5)]), None, limits(), START_US).tail
    older = tail.drop_columns(["content_id"])
    # A copy can't be told from a correction: the warehouse, which has the values, does.
    new = arriving(1, measured(1, 3.6), measured(2, 3.5))
    found = sequence(new, older, limits(), START_US, first_stays)
    assert volts(found.table) == [3.6, 3.5]
    assert (found.duplicates, found.superseded, found.replaced) == (0, None, 0)
    # It is known from now on, even beside what else an older version remembers.
    for known in (found.tail, gathered([older, found.tail], START_US)):
        assert known.num_rows == 2
        again = sequence(new, known, limits(), START_US, first_stays)
        assert (volts(again.table), again.duplicates, again.superseded) == ([], 2, None)


def test_what_was_remembered_by_other_profiles_is_judged_by_todays():
    parts = [cell(at, voltage_v=3.5, equipment_id="unknown", equipment_type="machine") for at in
             (0, 1)]  # fmt: skip
    tail, new = sequence(table_of(parts[:1]), None, limits()).tail, table_of(parts[1:])
    wanted = sequence(new, tail, limits())
    beyond = len(limits().profiles)
    old = [
        table.set_column(
            table.column_names.index("profile"), "profile", pa.array([beyond], pa.int32())
        )
        for table in (new, tail)
    ]
    found = sequence(*old, limits())
    assert found.table.drop_columns("profile") == wanted.table.drop_columns("profile")


def test_a_table_that_has_a_column_twice_is_no_tail():
    fields = [pa.field("profile", pa.int32()), pa.field("profile", pa.int32())]
    assert tail_problem(pa.schema(fields)) == "has the column profile twice"
