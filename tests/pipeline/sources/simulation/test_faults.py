"""Readings are as faulty as asked for, and as their kinds of fault say."""

from __future__ import annotations

import json
import math
from collections import Counter
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from pipeline.sources.simulation.config import FleetConfig
from pipeline.sources.simulation.faults import FAULTS
from pipeline.sources.simulation.fleet import Fleet
from pipeline.sources.simulation.parts import Block
from tests.pipeline.sources.simulation.reading import all_messages, by_key


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
