"""The live job on a real broker, in short: what `make chaos` does at length."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.endurance.failures import crashes
from tests.endurance.million import million
from tests.endurance.rig import Rig
from tests.endurance.scenarios import SCENARIOS
from tests.services.kafka import Broker

pytestmark = [pytest.mark.integration, pytest.mark.long]


def rig(broker: Broker, folder: Path) -> Rig:
    return Rig(broker, folder, rate=500, window_s=2, pace=0.2, choose=random.Random(1))


@pytest.mark.parametrize("scenario", ["calm", "idle_partition", "takeover_by_drain", "poison"])
def test_nothing_is_lost_or_doubled(kafka: Broker, tmp_path: Path, scenario: str) -> None:
    with rig(kafka, tmp_path) as on:
        assert SCENARIOS[scenario](on) == {}


def test_a_killed_job_goes_on_where_it_was(kafka: Broker, tmp_path: Path) -> None:
    with rig(kafka, tmp_path) as on:
        assert crashes(on, kills=2) == {}


def test_a_broker_that_crashes_costs_nothing(kafka: Broker, tmp_path: Path) -> None:
    if not kafka.keeps_data:
        pytest.skip(f"the broker ({kafka.kind}) forgets its messages when it stops")
    with rig(kafka, tmp_path) as on:
        assert SCENARIOS["broker_crashes"](on) == {}


def test_live_tables_equal_those_of_a_bounded_run(kafka: Broker, tmp_path: Path) -> None:
    with rig(kafka, tmp_path) as on:
        assert million(on, readings=30_000) == {}
