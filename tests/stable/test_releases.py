"""A job of a recorded release can be updated to today's code, or the record says what it takes."""

from __future__ import annotations

import pytest

from tests.stable import releases
from tests.stable.fingerprint import fingerprint
from tests.stable.graphs import CONFIGURATIONS, FLINK, built
from tests.stable.releases import Release
from tests.stable.scenes import SCENES

HOW = "run python -m tests.stable.record"


@pytest.mark.parametrize("release", releases.recorded(), ids=lambda release: release.version)
def test_a_job_of_a_release_can_be_updated(release: Release) -> None:
    found = releases.to_know(release)
    known = releases.current().updates().get(release.version, {})
    left = {
        name: [each for each in given if each.as_json() not in known.get(name, [])]
        for name, given in found.items()
    }
    assert not any(left.values()), releases.told(release, left)


def test_the_release_is_recorded() -> None:
    release = releases.current()
    there = release.graphs()
    missing = [name for name in CONFIGURATIONS if name not in there]
    assert not missing, f"release {release.version} has no record of {missing}; {HOW}"
    flags = {name: (each["engine"], tuple(each["flags"])) for name, each in there.items()}
    assert {name: flags[name] for name in CONFIGURATIONS} == CONFIGURATIONS
    assert release.kept()["scenes"] and release.kept()["values"]


def test_every_state_is_in_a_scene() -> None:
    played = []
    for scene in SCENES.values():
        step = fingerprint(scene.built)["keeps"][scene.step]
        played.append((step.get("states"), step.get("restriction"), step["elements"]))
    without = [
        f"{name}: {step}"
        for name, configuration in CONFIGURATIONS.items()
        for step, kept in fingerprint(built(*configuration))["keeps"].items()
        if (kept.get("states") or kept.get("restriction"))
        and (kept.get("states"), kept.get("restriction"), kept["elements"]) not in played
        and not step.startswith("BigQuery_loads/Every/")  # Beam's own
    ]
    assert not without, f"add a scene to tests/stable/scenes.py for {without}"


@pytest.mark.parametrize(
    "name", [name for name, (engine, _) in CONFIGURATIONS.items() if engine == FLINK]
)
def test_each_operator_keeps_one_steps_state(name: str) -> None:
    # Of two with one input it depended on their order which is which.
    keeps = fingerprint(built(*CONFIGURATIONS[name]))["keeps"]
    operators = [each["operator"] for each in keeps.values()]
    assert len(set(operators)) == len(operators)
