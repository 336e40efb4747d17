"""Messages are JSON and hold what was simulated."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime

import numpy as np
import pytest

from pipeline.sources.simulation.config import FleetConfig
from pipeline.sources.simulation.fleet import Fleet
from pipeline.sources.simulation.parts import Block
from tests.pipeline.sources.simulation.reading import all_messages, columns_of


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
