"""The live job on a Flink cluster of separate processes, in short: `make chaos ARGS=--engine=flink`."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.endurance import on_flink
from tests.endurance.on_flink import Cluster
from tests.endurance.rig import Rig
from tests.services.engines import flink_job_server
from tests.services.fixtures import available
from tests.services.kafka import Broker

pytestmark = [pytest.mark.integration, pytest.mark.long]

# One kill of each kind; and all that is done to a savepoint.
_SHORT: dict[str, Callable[[Cluster], dict[str, int]]] = {
    "kills": partial(on_flink.kills, times=5),
    "rescaled": on_flink.rescaled,
    "days_later": on_flink.days_later,
}


@pytest.mark.parametrize("scenario", _SHORT)
def test_nothing_is_lost_or_doubled(scenario: str, kafka: Broker, tmp_path: Path) -> None:
    available(flink_job_server)
    with (
        Rig(kafka, tmp_path, rate=500, window_s=2, pace=0.3, choose=random.Random(1)) as rig,
        Cluster(rig) as on,
    ):
        assert _SHORT[scenario](on) == {}
