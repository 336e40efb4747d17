"""What --dry_run prints: the resolved configuration, and the graph with its step names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor

from pipeline.options import JobConfig


def configuration(config: JobConfig, runner: str) -> Iterator[str]:
    """A line for every setting, with the value it came to."""
    width = max(len(field.name) for field in dataclasses.fields(config)) + 2
    yield f"{'runner':<{width}}{runner}"
    for field in dataclasses.fields(config):
        yield f"{field.name:<{width}}{_shown(field.name, getattr(config, field.name))}"


def _shown(name: str, value: Any) -> str:
    if name == "profiles":
        return ", ".join(profile.name for profile in value) or "none"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


class _Steps(PipelineVisitor):
    """The outermost steps and from which others each takes its input."""

    def __init__(self) -> None:
        self.steps: dict[str, list[str]] = {}

    def enter_composite_transform(self, step: AppliedPTransform) -> None:
        if step.parent is not None and step.parent.parent is None:
            self._add(step)

    def visit_transform(self, step: AppliedPTransform) -> None:
        if step.parent is not None and step.parent.parent is None:
            self._add(step)

    def _add(self, step: AppliedPTransform) -> None:
        producers = [_outermost(found.producer) for found in step.inputs if found.producer]
        self.steps[step.full_label] = [name for name in dict.fromkeys(producers) if name]


def _outermost(step: AppliedPTransform) -> str:
    while step.parent is not None and step.parent.parent is not None:
        step = step.parent
    return str(step.full_label)


def graph(pipeline: beam.Pipeline) -> Iterator[str]:
    """A line for every outermost step: its name, and the steps it takes its input from."""
    found = _Steps()
    pipeline.visit(found)
    width = max((len(name) for name in found.steps), default=0) + 2
    for name, producers in found.steps.items():
        yield f"{name:<{width}}" + (f"<- {', '.join(producers)}" if producers else "")
