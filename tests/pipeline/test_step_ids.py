"""Ids of steps: by their names alone, whatever else is in the graph."""

from __future__ import annotations

from collections.abc import Sequence

import apache_beam as beam

from pipeline.step_ids import StepIds


def ids(labels: Sequence[str], component_ids: StepIds | None) -> dict[str, str]:
    """By name the id of every step of a chain."""
    pipeline = beam.Pipeline()
    if component_ids is not None:
        pipeline.component_id_map = component_ids
    last = pipeline | "Source" >> beam.Create([1])
    for label in labels:
        last = last | label >> beam.Map(lambda each: each)
    proto = pipeline.to_runner_api()
    return {step.unique_name: key for key, step in proto.components.transforms.items()}


def test_a_step_more_changes_no_others_id() -> None:
    before, after = ids(["One", "Two"], StepIds()), ids(["More", "One", "Two"], StepIds())
    named = [name for name in before if not name.startswith("ref_")]
    assert {"Source", "One", "Two"} < set(named)
    assert [after[name] for name in named] == [before[name] for name in named]
    # Which Beam's own do.
    assert ids(["One", "Two"], None)["Two"] != ids(["More", "One", "Two"], None)["Two"]


def test_names_that_look_alike_have_ids_of_their_own() -> None:
    alike = ["Write (a)", "Write [a]", "x" * 100 + "1", "x" * 100 + "2"]
    found = ids(alike, StepIds())
    assert len({found[name] for name in alike}) == len(alike)
    assert all(len(each) <= 120 and each.startswith("ref_") for each in found.values())
