"""Messages arrive as late and as often as asked for."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime

import numpy as np
import pytest

from pipeline.sources.simulation.config import FleetConfig
from pipeline.sources.simulation.fleet import Fleet
from tests.pipeline.sources.simulation.reading import all_messages, by_key


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
