"""The live job on a real broker, in short: what `make chaos` does at length."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.endurance.fading import fading
from tests.endurance.failures import accounts, crashes
from tests.endurance.million import million
from tests.endurance.rig import Rig
from tests.endurance.scenarios import SCENARIOS
from tests.services.kafka import Broker

pytestmark = [pytest.mark.integration, pytest.mark.long]

# They leave the broker alone and mostly wait, so some of them run side by side.
_BESIDE: dict[str, Callable[[Rig], dict[str, int]]] = {
    **{
        name: SCENARIOS[name]
        for name in ("takeover_by_drain", "start_at_latest", "late", "idle_partition", "poison")
    },
    **{name: SCENARIOS[name] for name in ("ahead_and_behind", "added_partition", "random_topic")},
    "old_and_new_by_default": SCENARIOS["old_and_new"],
    "crashes": partial(crashes, kills=2),
    "accounts": partial(accounts, kills=1),
    "fading": partial(fading, kills=2, cycles=30),
    "million": partial(million, readings=30_000),
}
_AT_ONCE = 3


def rig(broker: Broker, folder: Path, window_s: int = 2) -> Rig:
    return Rig(broker, folder, rate=500, window_s=window_s, pace=0.2, choose=random.Random(1))


@pytest.fixture(scope="module")
def found(
    kafka: Broker, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[str, Future[dict[str, int]]]]:
    """What is wrong after each selected scenario, when it has ended."""

    def play(name: str) -> dict[str, int]:
        # The job's own default is a minute.
        window_s = 60 if name.endswith("by_default") else 2
        with rig(kafka, tmp_path_factory.mktemp(name, numbered=False), window_s) as on:
            return _BESIDE[name](on)

    names = {
        item.callspec.params.get("scenario")
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
    }
    pool = ThreadPoolExecutor(_AT_ONCE)
    yield {name: pool.submit(play, name) for name in _BESIDE if name in names}
    pool.shutdown(cancel_futures=True)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("scenario", _BESIDE)
def test_nothing_is_lost_or_doubled(
    found: dict[str, Future[dict[str, int]]], scenario: str
) -> None:
    assert found[scenario].result() == {}


def test_a_broker_that_crashes_costs_nothing(kafka: Broker, tmp_path: Path) -> None:
    if not kafka.keeps_data:
        pytest.skip(f"the broker ({kafka.kind}) forgets its messages when it stops")
    with rig(kafka, tmp_path) as on:
        assert SCENARIOS["broker_crashes"](on) == {}
