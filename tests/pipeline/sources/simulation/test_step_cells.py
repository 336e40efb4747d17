"""Cells in steps are physically sound and do what their protocols say."""

from __future__ import annotations

import hashlib
import itertools
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pipeline.sources.simulation.chemistry import CHEMISTRIES, curve
from pipeline.sources.simulation.config import CHEMISTRY_NAMES, PROTOCOL_NAMES, FleetConfig
from pipeline.sources.simulation.faults import FAULTS
from pipeline.sources.simulation.fleet import Fleet
from pipeline.sources.simulation.parts import Block
from pipeline.sources.simulation.protocols import PROTOCOLS
from tests.pipeline.sources.simulation.reading import Columns, all_messages, by_key, columns_of

MIXED: dict[str, Any] = {
    "equipment": 7,
    "machines": 0,
    "protocol": "mixed",
    "cycles": 4,
    "reference_every": 3,
    "per_index": 2,
    "interval": 120.0,
}


def test_what_the_configuration_names_is_there() -> None:
    assert tuple(PROTOCOLS) == PROTOCOL_NAMES
    assert tuple(CHEMISTRIES) == CHEMISTRY_NAMES


def test_the_default_fleet_sends_what_it_sent_before_there_were_protocols() -> None:
    fleet = Fleet(FleetConfig(equipment=4, cycles=2, faults=0.05, late=0.05, duplicates=0.05))
    found = hashlib.sha256()
    for messages in all_messages(fleet):
        for key, payload in zip(messages.keys, messages.payloads, strict=True):
            found.update(key + payload)
        found.update(messages.arrived_at_us.tobytes())
    assert found.hexdigest() == "e86eef6aef06117e9c647e67fa3ed50e5b128996e1ce15790d210d8fb249d39c"


@pytest.mark.parametrize("name", CHEMISTRY_NAMES)
def test_open_circuit_voltage_rises_from_limit_to_limit(name: str) -> None:
    kind, found = CHEMISTRIES[name], curve(name)
    soc = np.linspace(0.0, 1.0, 5001)
    volts, area = found.both(soc)
    assert volts[0] == pytest.approx(kind.v_min, abs=1e-4)
    assert volts[-1] == pytest.approx(kind.v_max, abs=1e-4)
    assert np.all(np.diff(volts) > 0.0)
    assert area[-1] == pytest.approx(np.trapezoid(volts, soc), rel=1e-5)
    middle = slice(50, -50)
    np.testing.assert_allclose(found.slope(soc)[middle], np.gradient(volts, soc)[middle], rtol=0.01)
    for at in (0.013, 0.5, 0.987):
        assert found.one(at) == pytest.approx(float(found.both(np.array([at]))[0][0]), abs=1e-9)
        assert found.area(at) == pytest.approx(float(found.both(np.array([at]))[1][0]), abs=1e-9)
        assert found.at_voltage(found.one(at)) == pytest.approx(at, abs=1e-6)


def steps_of(c: Columns) -> Iterator[slice]:
    """Rows of each step, in order."""
    turns = np.diff(c["step_index"]) | np.diff(c["cycle_index"]) | (np.diff(c["step_time_s"]) < 0)
    starts = [0, *(np.flatnonzero(turns) + 1).tolist(), len(c["step_index"])]
    yield from itertools.starmap(slice, itertools.pairwise(starts))


@pytest.mark.parametrize("chemistry", CHEMISTRY_NAMES)
@pytest.mark.parametrize("protocol", PROTOCOL_NAMES)
def test_counters_are_the_integrals_of_current_and_power(protocol: str, chemistry: str) -> None:
    config = FleetConfig(
        equipment=1, machines=0, cycles=2, interval=10.0, protocol=protocol, chemistry=chemistry,
        noise=0.0, fade=4.0,
    )  # fmt: skip
    c = columns_of(Fleet(config), 0)
    t, i, v = c["test_time_s"], c["current_a"], c["voltage_v"]
    kind = CHEMISTRIES[chemistry]
    assert kind.v_min - 1e-3 < v.min() < v.max() < kind.v_max + 1e-3
    assert np.all(np.diff(t) >= 0.499)
    assert np.all(np.diff(c["recorded_at_us"]) == np.rint(np.diff(t) * 1e6).astype(np.int64))
    dt = np.diff(t, prepend=0.0)
    # The reading's own current: a segment's current begins with it, and CV falls slowly.
    for name, part, sign in (
        ("charge_capacity_ah", i, 1),
        ("discharge_capacity_ah", i, -1),
        ("charge_energy_wh", i * v, 1),
        ("discharge_energy_wh", i * v, -1),
    ):
        integral = np.sum(np.maximum(sign * part, 0) * dt) / 3600.0
        assert c[name][-1] == pytest.approx(integral, rel=0.004)
        assert np.all(np.diff(c[name]) >= 0)
    # Voltage at constant current has no jumps but those of the current.
    for rows in steps_of(c):
        steady = np.abs(np.diff(i[rows])) < 1e-3
        assert np.all(np.abs(np.diff(v[rows]))[steady] < 0.25)


def test_a_drive_gives_charge_back_and_a_pulse_test_has_pulses_at_every_tenth() -> None:
    drive = columns_of(Fleet(FleetConfig(equipment=1, machines=0, cycles=1, protocol="drive")), 0)
    part = drive["step_index"] == 4
    assert {-1.0, 0.0, 1.0} == set(np.sign(np.round(drive["current_a"][part], 2)).tolist())
    pulse = columns_of(Fleet(FleetConfig(equipment=1, machines=0, cycles=1, protocol="pulse")), 0)
    lasted = [
        round(float(pulse["step_time_s"][rows][-1]), 3)
        for rows in steps_of(pulse)
        if pulse["step_index"][rows][0] == 4
    ]
    assert lasted.count(30.0) >= 9
    stages = columns_of(
        Fleet(FleetConfig(equipment=1, machines=0, cycles=1, protocol="multistage")), 0
    )
    currents = [
        round(float(np.median(stages["current_a"][rows])), 1)
        for rows in steps_of(stages)
        if stages["step_index"][rows][0] <= 3
    ]
    assert currents == [2.0, 1.0, 0.5]


@pytest.mark.parametrize("sampling", ["regular", "irregular", "voltage"])
def test_neither_block_nor_batch_size_changes_a_message(sampling: str) -> None:
    config = FleetConfig(**MIXED, sampling=sampling, faults=0.1, late=0.1, duplicates=0.1)
    fleet = Fleet(config)
    whole = by_key(all_messages(fleet, 10**9, 10**6))
    assert by_key(all_messages(fleet, 1, 700)) == whole
    assert sum(map(len, whole.values())) == fleet.total
    other = FleetConfig(**MIXED, sampling=sampling, seed=2)
    assert by_key(all_messages(Fleet(other))).keys() == whole.keys()


def test_a_reading_does_not_depend_on_how_many_are_wanted() -> None:
    few = Fleet(FleetConfig(**MIXED | {"readings": 7 * 300}))
    life = Fleet(FleetConfig(**MIXED | {"cycles": 60}))
    for cell in range(7):
        some, all_of = columns_of(few, cell), columns_of(life, cell)
        assert len(some["voltage_v"]) == 300
        for name in some:
            np.testing.assert_array_equal(some[name], all_of[name][:300])
    # Every 50 cycles a new test, whose counters and clock begin again.
    begins = np.flatnonzero(np.diff(all_of["cycle_index"]) < 0) + 1
    assert begins.size == 1
    assert all_of["test_id"][begins[0]] == b"sim_cell_007_t02"
    assert all_of["record_index"][begins[0]] == 1
    assert all_of["test_time_s"][begins[0]] == 1.0
    assert all_of["charge_capacity_ah"][begins[0]] < 0.002
    assert all_of["internal_resistance_ohm"][begins[0]] == 0.0


def test_memory_does_not_grow_with_the_life_of_a_cell() -> None:
    def peak(readings: int) -> int:
        fleet = Fleet(FleetConfig(equipment=1, readings=readings, chemistry="lfp"))
        tracemalloc.start()
        for _ in itertools.islice(fleet.messages(Block(0, 1), 4096), 12):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(100_000_000) < 1.3 * peak(110_000) < 120e6


def test_what_is_omitted_is_in_no_message_and_cannot_be_faulty() -> None:
    config = FleetConfig(
        equipment=2, machines=0, cycles=5, omit="counters,cycle_index,test_time,temperature",
        faults=0.3,
    )  # fmt: skip
    plain = FleetConfig(equipment=2, machines=0, cycles=5)
    gone = {"charge_capacity_ah", "discharge_energy_wh", "cycle_index", "test_time_s",
            "temperature_c", "ambient_temperature_c"}  # fmt: skip
    healthy = [json.loads(p) for m in all_messages(Fleet(plain)) for p in m.payloads]
    codes = set()
    for messages in all_messages(Fleet(config)):
        codes |= set(messages.faults.tolist())
        for code, payload in zip(messages.faults.tolist(), messages.payloads, strict=True):
            if code == 0:
                found = json.loads(payload)
                assert not gone & found.keys()
                assert {"step_index", "voltage_v", "record_index"} <= found.keys()
    named = {FAULTS[code - 1].name for code in codes if code}
    assert {"missing_field", "stuck_sensor"} <= named
    assert "negative_counter" not in named
    assert gone <= healthy[0].keys()


def test_sampling_by_voltage_reads_every_step_of_it() -> None:
    config = FleetConfig(
        equipment=1, machines=0, cycles=2, interval=300.0, noise=0.0, sampling="voltage",
        voltage_step=5.0,
    )  # fmt: skip
    c = columns_of(Fleet(config), 0)
    loaded = [rows for rows in steps_of(c) if c["step_index"][rows][0] in (1, 4)]
    for rows in loaded:
        v, t = c["voltage_v"][rows], c["step_time_s"][rows]
        # A second is the finest: a change may be seen so much later.
        late, dt = t[:-1] > 300.0, np.diff(t)
        change = np.abs(np.diff(v)) * (1.0 - 1.3 / np.maximum(dt, 1.3))
        assert np.all((change < 0.0052)[late])
        assert np.diff(t).max() <= 300.0
    assert len(loaded) == 4


def test_irregular_sampling_varies_about_its_interval() -> None:
    config = FleetConfig(equipment=1, machines=0, cycles=3, sampling="irregular", interval=30.0)
    c = columns_of(Fleet(config), 0)
    gaps = np.concatenate([np.diff(c["step_time_s"][rows])[:-1] for rows in steps_of(c)])
    assert gaps.size > 900
    assert gaps.min() >= 6.0
    assert gaps.max() <= 54.0
    assert gaps.mean() == pytest.approx(30.0, rel=0.05)
    assert np.std(gaps) == pytest.approx(48.0 / np.sqrt(12.0), rel=0.1)


def test_a_season_and_a_cold_week_are_in_the_temperatures() -> None:
    config = FleetConfig(
        equipment=1, machines=0, cycles=45, interval=600.0, temperature_swing=8.0,
        temperature_period=4.0, cold_week=5,
    )  # fmt: skip
    c = columns_of(Fleet(config), 0)
    days = (c["recorded_at_us"] / 1e3 - config.start_ms) / 86.4e6
    around = c["ambient_temperature_c"]
    cold = (days >= 5.0) & (days < 12.0)
    season = 25.0 + 8.0 * np.sin(2.0 * np.pi * days / 4.0) - 20.0 * cold
    assert np.all(np.abs(around - season) < 0.5)  # a day's own 0.3 K and noise
    assert np.all(c["temperature_c"] > around - 0.4)
    # Cold cells give less.
    out = c["discharge_capacity_ah"]
    last = np.flatnonzero(np.diff(c["cycle_index"], append=-1) != 0)
    given = np.diff(out[last], prepend=0.0)
    is_cold = cold[last]
    assert 5 < is_cold.sum() < 45
    assert given[is_cold].mean() < 0.95 * given[:5].mean()


def test_noise_is_as_asked_for() -> None:
    exact = columns_of(Fleet(FleetConfig(equipment=1, machines=0, cycles=2, noise=0.0)), 0)
    noisy = columns_of(Fleet(FleetConfig(equipment=1, machines=0, cycles=2, noise=5.0)), 0)
    apart = noisy["voltage_v"] - exact["voltage_v"]
    assert np.std(apart) == pytest.approx(0.005, rel=0.1)
    assert abs(np.mean(apart)) < 0.001


def test_cells_are_named_after_their_chemistry_and_have_a_profile() -> None:
    from schemas import profiles

    for chemistry, name in (("lfp", "simulated_lfp"), ("nmc", "simulated_nmc"),
                            ("lco", "simulated_cell")):  # fmt: skip
        fleet = Fleet(FleetConfig(equipment=4, machines=2, chemistry=chemistry, cycles=1))
        ids = fleet.cell_names()
        assert ids[0] == f"sim_{CHEMISTRIES[chemistry].short}_001"
        profile = profiles.choose(profiles.built_in(), ids[0], "battery_cell")
        assert profile is not None
        assert profile.name == name
        assert (profile.v_min_v, profile.v_max_v) == (
            CHEMISTRIES[chemistry].v_min,
            CHEMISTRIES[chemistry].v_max,
        )
        keys = {key for m in all_messages(fleet) for key in m.keys}
        assert keys == {name.encode() for name in ids} | {b"sim_machine_001", b"sim_machine_002"}
