"""The simulated fleet is repeatable, physically sound, and as faulty and late as asked for."""

from __future__ import annotations

import itertools
import json
import math
import pickle
import tracemalloc
from collections import Counter, defaultdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.sources.simulation import FAULTS, Block, Fleet, FleetConfig, Messages

Columns = dict[str, NDArray[Any]]


def all_messages(fleet: Fleet, size: int = 20_000, batch: int = 20_000) -> list[Messages]:
    return [m for block in fleet.blocks(size) for m in fleet.messages(block, batch)]


def by_key(batches: list[Messages]) -> dict[bytes, list[tuple[bytes, int]]]:
    found: dict[bytes, list[tuple[bytes, int]]] = defaultdict(list)
    for m in batches:
        for key, payload, at in zip(m.keys, m.payloads, m.arrived_at_us.tolist(), strict=True):
            found[key].append((payload, at))
    return found


def columns_of(fleet: Fleet, equipment: int) -> Columns:
    batches = list(fleet.columns(Block(equipment, equipment + 1)))
    return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}


def lives(c: Columns) -> tuple[NDArray[Any], NDArray[Any]]:
    """Discharge capacity (Ah) and start row of each cycle over a cell's life, from the counters."""
    starts = np.flatnonzero(np.diff(c["cycle_index"], prepend=-1) != 0)
    ends = np.append(starts[1:], len(c["cycle_index"])) - 1
    out = c["discharge_capacity_ah"]
    return out[ends] - out[starts], starts


def dq_dv(c: Columns, cycle: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Smoothed dQ/dV (Ah/V) of a cycle's CC charge in 10 mV bins, and the bins (V)."""
    _, starts = lives(c)
    rows = np.flatnonzero(c["step_index"][starts[cycle] :] != 1)[0]
    part = slice(starts[cycle], starts[cycle] + rows)
    volts = np.maximum.accumulate(c["voltage_v"][part])
    bins = np.arange(3.4, 4.2, 0.01)
    slope = np.diff(np.interp(bins, volts, c["charge_capacity_ah"][part])) / 0.01
    kernel = np.exp(-0.5 * (np.arange(-4, 5) / 1.5) ** 2)
    return np.convolve(slope, kernel / kernel.sum(), "same"), bins[:-1]


def peaks(slope: NDArray[Any], least: float) -> NDArray[Any]:
    inner = slope[1:-1]
    found = (inner > slope[:-2]) & (inner >= slope[2:]) & (inner > least)
    return np.flatnonzero(found) + 1


@pytest.fixture(scope="module")
def default() -> Fleet:
    return Fleet(FleetConfig())


@pytest.fixture(scope="module")
def cell(default: Fleet) -> Columns:
    return columns_of(default, 0)


# Repeatable


def test_the_same_seed_gives_the_same_messages_and_another_seed_others() -> None:
    def run(seed: int) -> dict[bytes, list[tuple[bytes, int]]]:
        config = FleetConfig(readings=4000, seed=seed, faults=0.1, late=0.1, duplicates=0.1)
        return by_key(all_messages(Fleet(config)))

    assert run(7) == run(7)
    ours, theirs = run(7), run(8)
    assert ours.keys() == theirs.keys()
    assert all(ours[key] != theirs[key] for key in ours)


@pytest.mark.parametrize(("size", "batch"), [(1, 700), (900, 333), (20_000, 1), (10**9, 10**6)])
def test_neither_block_nor_batch_size_changes_a_message(size: int, batch: int) -> None:
    config = FleetConfig(equipment=40, readings=9_000, faults=0.1, late=0.1, duplicates=0.1)
    assert by_key(all_messages(Fleet(config), size, batch)) == by_key(all_messages(Fleet(config)))


def test_a_reading_does_not_depend_on_how_many_are_wanted() -> None:
    few = columns_of(Fleet(FleetConfig(equipment=4, readings=4 * 500)), 2)
    # More than the 500 cycles that are planned at once.
    many = columns_of(Fleet(FleetConfig(equipment=4, readings=4 * 150_000)), 2)
    life = columns_of(Fleet(FleetConfig(equipment=4)), 2)
    assert len(few["voltage_v"]) == 500
    assert len(many["voltage_v"]) == 150_000
    for name in few:
        np.testing.assert_array_equal(few[name], many[name][:500])
        np.testing.assert_array_equal(life[name], many[name][: len(life[name])])


def test_blocks_are_small_pickles_and_cover_the_fleet_once() -> None:
    fleet = Fleet(FleetConfig(equipment=50_000, readings=1_000_000))
    blocks = fleet.blocks(20_000)
    assert 40 <= len(blocks) <= 60
    assert [e for b in blocks for e in range(b.first, b.stop)] == list(range(50_000))
    assert len(pickle.dumps(blocks[0])) < 200
    assert len({b.partition for b in blocks}) == len(blocks)


# Amounts


@pytest.mark.parametrize(
    "config",
    [
        FleetConfig(readings=10_007),
        FleetConfig(equipment=7, machines=0, readings=5),
        FleetConfig(equipment=3, machines=3, readings=1001),
        FleetConfig(equipment=333, readings=100_001, duplicates=0.013),
        FleetConfig(equipment=5, cycles=3, duplicates=1.0),
        FleetConfig(equipment=4, cycles=2, interval=600.0, late=0.5, duplicates=0.3),
    ],
    ids=lambda c: f"{c.equipment}-{c.readings}",
)
def test_total_is_the_exact_number_of_messages(config: FleetConfig) -> None:
    fleet = Fleet(config)
    batches = all_messages(fleet, batch=977)
    assert sum(len(m.payloads) for m in batches) == fleet.total
    if config.readings is not None:
        assert int(fleet.counts.sum()) == config.readings
        assert int(np.ptp(fleet.counts)) <= 1


def test_the_default_fleet_is_small_enough_and_lies_in_the_past(default: Fleet) -> None:
    assert 600_000 <= default.total <= 1_200_000
    ends = [int(columns_of(default, e)["recorded_at_us"][-1]) for e in (0, 3, 7)]
    assert max(ends) < datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1e6
    assert abs(default.ends_at_us - max(ends)) < 10 * 86_400e6


def test_offsets_count_on_and_arrival_never_falls_within_a_block() -> None:
    fleet = Fleet(FleetConfig(equipment=30, readings=30_000, late=0.1, duplicates=0.1))
    for block in fleet.blocks(8_000):
        batches = list(fleet.messages(block, 999))
        assert [m.offset for m in batches] == list(range(0, batches[-1].offset + 1, 999))
        assert {m.partition for m in batches} == {block.partition}
        assert all(len(m.payloads) == 999 for m in batches[:-1])
        arrived = np.concatenate([m.arrived_at_us for m in batches])
        assert arrived.dtype == np.int64
        assert np.all(np.diff(arrived) >= 0)


def test_memory_does_not_grow_with_the_life_of_an_equipment() -> None:
    def peak(readings: int) -> int:
        fleet = Fleet(FleetConfig(equipment=1, readings=readings, late=0.05))
        tracemalloc.start()
        for _ in itertools.islice(fleet.messages(Block(0, 1), 4096), 12):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(100_000_000) < 1.3 * peak(110_000) < 120e6


# Messages


def test_messages_are_json_with_the_equipment_as_key() -> None:
    fleet = Fleet(FleetConfig(readings=4_000))
    seen = Counter[str]()
    for m in all_messages(fleet):
        for key, payload, arrived in zip(m.keys, m.payloads, m.arrived_at_us, strict=True):
            reading = json.loads(payload)
            seen[reading["equipment_type"]] += 1
            assert reading["equipment_id"].encode() == key
            sent = datetime.fromisoformat(reading["streamed_at"])
            delay = (sent - datetime.fromisoformat(reading["recorded_at"])).total_seconds()
            assert reading["recorded_at"].endswith("Z")
            assert 0.0 < delay < 1.0
            assert 0.0 <= arrived / 1e6 - sent.timestamp() < 0.0011
    assert seen == {"battery_cell": 3000, "machine": 1000}


@pytest.mark.parametrize("equipment", [2, 7])
def test_json_and_columns_hold_the_same_values(equipment: int) -> None:
    # A large nominal capacity and a cold chamber: many digits and minus signs.
    fleet = Fleet(FleetConfig(readings=8 * 6_000, nominal_ah=300.0, temperature=-2.0))
    block = Block(equipment, equipment + 1)
    rows = [json.loads(p) for m in fleet.messages(block) for p in m.payloads]
    columns = columns_of(fleet, equipment)
    for name, values in columns.items():
        if name == "recorded_at_us":
            times = [datetime.fromisoformat(row["recorded_at"]).timestamp() for row in rows]
            np.testing.assert_array_equal(np.rint(np.array(times) * 1e3), values / 1e3)
        elif values.dtype.kind == "S":
            assert [row[name].encode() for row in rows] == values.tolist()
        else:
            np.testing.assert_array_equal([row[name] for row in rows], values)
    assert set(rows[0]) - set(columns) == {"equipment_type", "recorded_at", "streamed_at"}
    if equipment == 2:
        assert columns["charge_energy_wh"].max() > 10_000
        assert columns["temperature_c"].min() < 0


# Cells


def test_every_test_restarts_its_counters_and_clock(cell: Columns) -> None:
    begins = np.flatnonzero(cell["test_id"][1:] != cell["test_id"][:-1]) + 1
    assert len(begins) == 9
    assert cell["test_id"][0] == b"sim_cell_001_t01"
    assert cell["test_id"][-1] == b"sim_cell_001_t10"
    for row in (0, *begins):
        assert cell["record_index"][row] == cell["cycle_index"][row] == 1
        assert cell["test_time_s"][row] == 1.0
        assert cell["charge_capacity_ah"][row] < 0.001
        assert cell["discharge_capacity_ah"][row] == 0.0
        assert cell["internal_resistance_ohm"][row] == 0.0
    assert cell["cycle_index"].max() == 50
    unmeasured = np.mean(cell["internal_resistance_ohm"] == 0.0)
    assert 0.01 < unmeasured < 0.025
    same = np.diff(cell["record_index"]) == 1
    assert np.count_nonzero(~same) == 9
    assert np.all(np.diff(cell["test_time_s"])[same] >= 0.4)
    assert np.all(np.diff(cell["recorded_at_us"]) > 0)
    gaps = np.diff(cell["recorded_at_us"])[begins - 1] / 3.6e9
    assert np.all((gaps > 0.9) & (gaps < 25))


@pytest.mark.parametrize("interval", [10.0, 60.0])
def test_counters_are_the_integrals_of_current_and_power(interval: float) -> None:
    c = columns_of(Fleet(FleetConfig(machines=0, cycles=4, interval=interval)), 1)
    t, i, v = c["test_time_s"], c["current_a"], c["voltage_v"]
    dt = np.diff(t, prepend=0.0)
    first = np.diff(c["step_index"], prepend=-1) != 0
    # Trapezoid inside a step, rectangle on its first reading.
    mean_i = np.where(first, i, (i + np.roll(i, 1)) / 2)
    mean_p = np.where(first, i * v, (i * v + np.roll(i * v, 1)) / 2)
    for name, part, sign in (
        ("charge_capacity_ah", mean_i, 1),
        ("discharge_capacity_ah", mean_i, -1),
        ("charge_energy_wh", mean_p, 1),
        ("discharge_energy_wh", mean_p, -1),
    ):
        integral = np.sum(np.maximum(sign * part, 0) * dt) / 3600.0
        assert c[name][-1] == pytest.approx(integral, rel=0.005)
        assert np.all(np.diff(c[name]) >= 0)


def test_a_cycle_is_cc_cv_charge_rest_cc_discharge_rest(cell: Columns) -> None:
    rows = cell["cycle_index"][:500] == 1
    step, i, v = (cell[n][:500][rows] for n in ("step_index", "current_a", "voltage_v"))
    assert np.all(np.diff(step) >= 0)
    assert set(step.tolist()) == {1, 2, 3, 4, 5}
    assert np.all(np.abs(i[step == 1] - 1.0) < 0.002)
    assert np.all(np.diff(v[step == 1]) > -0.003)
    assert v[step == 1][-1] == pytest.approx(4.2, abs=0.003)
    assert np.all(np.abs(v[step == 2] - 4.2) < 0.002)
    assert np.all(np.diff(i[step == 2]) < 0)
    assert i[step == 2][-1] == pytest.approx(0.1, abs=0.002)
    assert np.all(i[(step == 3) | (step == 5)] == 0.0)
    assert np.all(np.abs(i[step == 4] + 2.0) < 0.002)
    assert v[step == 4][-1] == pytest.approx(2.7, abs=0.003)
    assert v[step == 3][-1] > v[step == 4][0]
    assert np.all(np.diff(v[step == 5]) > -0.002)


def test_voltage_and_temperature_stay_within_the_limits(default: Fleet) -> None:
    for equipment in (0, 3):
        c = columns_of(default, equipment)
        assert c["voltage_v"].min() > 2.69
        assert c["voltage_v"].max() < 4.21
        assert 24.0 < c["ambient_temperature_c"].min() < c["ambient_temperature_c"].max() < 26.0
        assert 24.0 < c["temperature_c"].min() < c["temperature_c"].max() < 50.0
        assert c["temperature_c"].max() > 27.0
        # A healthy sensor is never taken for a stuck one.
        run, longest = 1, 1
        loaded = (c["step_index"] == 1) | (c["step_index"] == 4)
        for same in ((np.diff(c["voltage_v"]) == 0) & loaded[1:]).tolist():
            run = run + 1 if same else 1
            longest = max(longest, run)
        assert longest < 6


def test_fresh_cells_have_their_nominal_capacity() -> None:
    fleet = Fleet(FleetConfig(equipment=200, machines=0, cycles=1, nominal_ah=5.0))
    parts = [c for b in fleet.blocks(20_000) for c in fleet.columns(b, 10**6)]
    last = [np.append(np.diff(c["record_index"]) < 0, True) for c in parts]
    capacity = np.concatenate(
        [c["discharge_capacity_ah"][rows] for c, rows in zip(parts, last, strict=True)]
    )
    assert capacity.size == 200
    assert np.mean(capacity) == pytest.approx(5.0, rel=0.015)
    assert 0.003 < np.std(capacity) / 5.0 < 0.012


def test_capacity_fades_with_a_knee_and_most_cells_reach_end_of_life(default: Fleet) -> None:
    ended = 0
    for equipment in range(6):
        capacity, _ = lives(columns_of(default, equipment))
        assert capacity.size == 500
        smooth = np.convolve(capacity, np.ones(25) / 25, "valid")
        assert np.all(np.diff(smooth[::25]) < 0)
        early = (smooth[50] - smooth[200]) / 150
        late = (smooth[-51] - smooth[-1]) / 50
        assert late > 3 * early
        median = np.median(np.lib.stride_tricks.sliding_window_view(capacity, 5), axis=1)
        below = np.flatnonzero(median < 0.8 * 2.0)
        if below.size:
            assert below[0] > 300
            ended += 1
    assert 4 <= ended <= 6


def test_resistance_grows(cell: Columns) -> None:
    r = cell["internal_resistance_ohm"]
    fresh, aged = r[r > 0][:1000].mean(), r[-1000:].mean()
    assert 0.03 < fresh < 0.06
    assert aged > 1.5 * fresh


def test_dq_dv_has_peaks_that_shrink_and_shift_with_age(cell: Columns) -> None:
    new, volts = dq_dv(cell, 5)
    old, _ = dq_dv(cell, 360)
    found = peaks(new, 2.0)
    assert len(found) >= 3
    assert np.all(np.diff(volts[found]) > 0.05)
    for low, high in itertools.pairwise(found):
        assert new[low:high].min() < 0.7 * min(new[low], new[high])
    assert old.max() < 0.9 * new.max()
    assert 0.01 < volts[old.argmax()] - volts[new.argmax()] < 0.15


# Machines


def test_machines_run_on_mains_with_a_daily_load(default: Fleet) -> None:
    c = columns_of(default, 6)
    assert np.all(np.abs(c["frequency_hz"] - 50.0) < 0.1)
    assert np.all(np.abs(c["voltage_v"] - 230.0) < 15.0)
    assert np.all(np.diff(c["recorded_at_us"]) == 60_000_000)
    hour = c["recorded_at_us"] // 3_600_000_000
    weekday, of_day = (hour // 24 + 3) % 7, hour % 24
    day = (weekday < 5) & (of_day >= 8) & (of_day < 20)
    night = (of_day < 4) & (of_day >= 1)
    assert c["current_a"][day].mean() > 2 * c["current_a"][night].mean() > 0
    assert c["temperature_c"][day].mean() > c["temperature_c"][night].mean() + 10
    # The winding is slow: from minute to minute it moves by little.
    assert np.abs(np.diff(c["temperature_c"])).mean() < 0.5


# Faults, delays, second copies


def test_faults_have_their_share_and_every_kind_occurs() -> None:
    fleet = Fleet(FleetConfig(equipment=8, readings=120_000, faults=0.05))
    codes = np.concatenate([m.faults for m in all_messages(fleet)])
    assert np.mean(codes > 0) == pytest.approx(0.05, rel=0.05)
    counts = Counter(codes[codes > 0].tolist())
    assert set(counts) == set(range(1, len(FAULTS) + 1))
    assert min(counts.values()) > 100


def test_without_faults_none_occur() -> None:
    fleet = Fleet(FleetConfig(readings=10_000))
    assert not any(m.faults.any() for m in all_messages(fleet))


def accepted(payload: bytes) -> dict[str, Any] | None:
    """The reading if a plain validation with the generic limits takes it, else None."""
    try:
        reading: dict[str, Any] = json.loads(payload.decode("utf-8"))
        recorded = datetime.fromisoformat(reading["recorded_at"])
    except ValueError:
        return None
    cell = reading["equipment_type"] == "battery_cell"
    volts = reading.get("voltage_v")
    if not isinstance(volts, float) or not math.isfinite(volts):
        return None
    if abs(volts) > (10 if cell else 100_000) or recorded.year > 2026:
        return None
    counters = ("charge_capacity_ah", "discharge_capacity_ah") if cell else ("frequency_hz",)
    return reading if all(reading[name] >= 0 for name in counters) else None


def test_every_fault_is_to_be_rejected_or_flagged_as_its_kind_says() -> None:
    fleet = Fleet(FleetConfig(readings=60_000, faults=0.05))
    healthy = Fleet(FleetConfig(readings=60_000))
    clean = by_key(all_messages(healthy))
    position = Counter[bytes]()
    for m in all_messages(fleet):
        for key, payload, code in zip(m.keys, m.payloads, m.faults.tolist(), strict=True):
            original = clean[key][position[key]][0]
            position[key] += 1
            reading = accepted(payload)
            if code == 0:
                assert payload == original
                continue
            fault = FAULTS[code - 1]
            assert (reading is None) == (fault.expected == "reject"), (fault, payload)
            if reading is None or fault.name == "stuck_sensor":
                continue
            if fault.name == "frequency_off":
                assert abs(reading["frequency_hz"] - 50.0) > 2.5
            else:
                assert not 2.5 - 0.05 <= reading["voltage_v"] <= 4.2 + 0.05


def test_a_stuck_sensor_repeats_its_voltage_under_load() -> None:
    fleet = Fleet(FleetConfig(equipment=1, readings=20_000, faults=0.3))
    stuck = [f.name for f in FAULTS].index("stuck_sensor") + 1
    (m,) = fleet.messages(Block(0, 1), 10**6)
    rows = np.flatnonzero(m.faults == stuck)
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    assert len(runs) > 20
    for run in runs[:-1]:
        readings = [json.loads(m.payloads[i]) for i in run]
        assert len(run) == 15
        assert len({r["voltage_v"] for r in readings}) == 1
        assert {r["step_index"] for r in readings} == {1}


def test_late_readings_have_their_share_and_are_overtaken() -> None:
    fleet = Fleet(FleetConfig(equipment=4, readings=40_000, late=0.08))
    for arrivals in by_key(all_messages(fleet)).values():
        recorded = np.array(
            [
                datetime.fromisoformat(json.loads(payload)["recorded_at"]).timestamp()
                for payload, _ in arrivals
            ]
        )
        delay = np.array([at for _, at in arrivals]) / 1e6 - recorded
        late = delay > 100.0
        assert np.mean(late) == pytest.approx(0.08, abs=0.01)
        assert delay.max() < 3601.0
        assert np.count_nonzero(np.diff(recorded) < 0) > 0.06 * len(recorded)
        overtaken = recorded < np.maximum.accumulate(recorded)
        assert np.mean(overtaken[late]) > 0.95
        assert not overtaken[~late].any()


def test_duplicates_have_their_share_and_are_exact_copies() -> None:
    fleet = Fleet(FleetConfig(equipment=12, readings=30_000, duplicates=0.04))
    batches = all_messages(fleet)
    copies = Counter(payload for m in batches for payload in m.payloads)
    assert len(copies) == 30_000
    assert set(copies.values()) == {1, 2}
    assert sum(copies.values()) == fleet.total
    assert fleet.total == pytest.approx(31_200, abs=12)


# Parameters


def test_parameters_are_read_from_text() -> None:
    config = FleetConfig.parse(
        {
            "equipment": "50",
            "machines": "0",
            "readings": "1000",
            "interval": "2.5",
            "start": "2023-05-01",
            "faults": "0.01",
        }
    )
    assert config == FleetConfig(
        equipment=50, machines=0, readings=1000, interval=2.5, start="2023-05-01", faults=0.01
    )
    first = columns_of(Fleet(config), 0)["recorded_at_us"][0]
    begins = datetime(2023, 5, 1, tzinfo=UTC).timestamp() * 1e6
    assert 0 <= first - begins <= 2_500_000
    assert FleetConfig.parse({}) == FleetConfig()
    assert FleetConfig().machine_count == 2


@pytest.mark.parametrize(
    ("name", "text", "fix"),
    [
        ("equipment", "many", "a whole number"),
        ("equipment", "0", "between 1"),
        ("machines", "9", "between 0 and 8"),
        ("cycles", "1.5", "a whole number"),
        ("interval", "fast", "a number"),
        ("interval", "nan", "between 0.1"),
        ("readings", "-1", "between 1"),
        ("seed", "-1", "between 0"),
        ("start", "yesterday", "ISO 8601"),
        ("start", "1803-01-01", "between 1970"),
        ("faults", "1.5", "between 0.0 and 1.0"),
        ("late", "-0.1", "between 0.0 and 1.0"),
        ("duplicates", "x", "a number"),
        ("nominal_ah", "0", "between 0.1"),
        ("temperature", "200", "between -20"),
    ],
)
def test_a_wrong_value_is_named_with_its_fix(name: str, text: str, fix: str) -> None:
    with pytest.raises(ConfigError) as raised:
        FleetConfig.parse({name: text})
    message = str(raised.value)
    assert f"'{name}'" in message
    assert fix in message
    assert f"simulator:?{name}=" in message


def test_an_unknown_parameter_is_answered_with_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match=r"'equipments'.*did you mean 'equipment'.*duplicates"):
        FleetConfig.parse({"equipments": "8"})
