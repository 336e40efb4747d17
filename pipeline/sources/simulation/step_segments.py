"""Hold what a cell does as segments: constant current or voltage, each of closed form.

Within a segment of constant current I the state of charge is a line, the RC pair and the heat are
exponentials:

    V(t) = OCV(s0 + I e t / C) + I (R0 + R1) + (v0 - I R1) exp(-t / tau)

A segment of constant voltage is a row of nodes, between which the current is a line.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.sources.simulation.arrays import Floats, Ints
from pipeline.sources.simulation.cell_model import EFFICIENCY, TAU_HEAT_S
from pipeline.sources.simulation.chemistry import Chemistry, Curve

REST, CURRENT, VOLTAGE = range(3)
_NODES: Final = 64


@dataclass
class Segment:
    """One segment; times in ms since the cell's first one began, counters since then too."""

    cycle: int  # cycle indexes since the first, from 0
    run: int  # steps since the cycle index began, from 0
    step: int  # what the cycler calls the step
    kind: int
    swing: int  # swings since the cell's first, from 0
    early: int  # readings before the first interval: after 1, 10 and 30 s
    start_ms: int
    step_ms: int  # when the step began; a step may have several segments
    duration_ms: int
    current_a: float  # of a VOLTAGE segment: where it starts
    volts: float  # of a VOLTAGE segment: where it is held
    soc: float
    rc_v: float
    heat_k: float
    settled_k: float  # where the heat would settle
    capacity_ah: float
    r0: float
    r1: float
    charge_ah: float
    discharge_ah: float
    charge_wh: float
    discharge_wh: float
    node: int = 0  # a VOLTAGE segment's first node
    nodes: int = 0


@dataclass(frozen=True)
class Segments:
    """Segments as columns, (n,) each by the name of the field, and the nodes of all (m,)."""

    columns: dict[str, NDArray[Any]]
    node_ms: Floats  # since the cell's first segment began
    node_current: Floats
    node_ah: Floats  # since the segment began

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    @property
    def size(self) -> int:
        """How many segments."""
        return int(self.columns["cycle"].size)


def columns(segments: list[Segment], nodes: list[Floats]) -> Segments:
    """Stacks segments and their nodes, each (3, n): ms, A, Ah."""
    whole = ("cycle", "run", "step", "kind", "swing", "early", "start_ms", "step_ms",
             "duration_ms", "node", "nodes")  # fmt: skip
    stacked: dict[str, NDArray[Any]] = {
        field.name: np.array(
            [getattr(segment, field.name) for segment in segments],
            np.int64 if field.name in whole else np.float64,
        )
        for field in fields(Segment)
    }
    stacked["node"] = np.cumsum(stacked["nodes"]) - stacked["nodes"]
    ms, current, charge = np.concatenate(nodes, axis=1) if nodes else np.zeros((3, 0))
    return Segments(stacked, ms, current, charge)


@dataclass(frozen=True)
class Points:
    """The noise-free cell at some times, (n,) each; counters since the cell's first segment."""

    voltage_v: Floats
    current_a: Floats
    charge_ah: Floats
    discharge_ah: Floats
    charge_wh: Floats
    discharge_wh: Floats
    heat_k: Floats


def points(kind: Chemistry, curve: Curve, all_of: Segments, which: Ints, after_ms: Ints) -> Points:
    """The cell `after_ms` (n,) into the segments `which` (n,)."""

    def of(name: str) -> NDArray[Any]:
        taken: NDArray[Any] = all_of.columns[name][which]
        return taken

    t = after_ms / 1000.0
    current, r0, r1 = of("current_a"), of("r0"), of("r1")
    soc0 = of("soc")
    moved = current * t / 3600.0
    rate = current * np.where(current > 0.0, EFFICIENCY, 1.0) / (3600.0 * of("capacity_ah"))
    open_v, area = curve.both(soc0 + rate * t)
    _, area0 = curve.both(soc0)
    decay = np.exp(-t / kind.tau_s)
    beside = of("rc_v") - current * r1
    volts = open_v + current * (r0 + r1) + beside * decay
    safe = np.where(rate == 0.0, 1.0, rate)
    open_vs = np.where(rate == 0.0, 0.0, (area - area0) / safe)
    loss = current * (r0 + r1) * t + beside * kind.tau_s * (1.0 - decay)
    energy = current * (open_vs + loss) / 3600.0

    held = np.flatnonzero(of("kind") == VOLTAGE)
    if held.size:
        at = of("start_ms")[held] + after_ms[held]
        # Nodes of one segment after another: times rise over all of them.
        left = np.searchsorted(all_of.node_ms, at, "right") - 1
        first = of("node")[held]
        left = np.clip(left, first, first + of("nodes")[held] - 2)
        begins, ends = all_of.node_ms[left], all_of.node_ms[left + 1]
        i0, i1 = all_of.node_current[left], all_of.node_current[left + 1]
        now = i0 + (i1 - i0) * (at - begins) / np.maximum(ends - begins, 1e-9)
        current = current.copy()
        current[held] = now
        moved[held] = all_of.node_ah[left] + (i0 + now) / 2.0 * (at - begins) / 3.6e6
        volts[held] = of("volts")[held]
        energy[held] = moved[held] * volts[held]
    warm = np.exp(-t / TAU_HEAT_S)
    settled = of("settled_k")
    return Points(
        voltage_v=volts,
        current_a=current,
        charge_ah=of("charge_ah") + np.maximum(moved, 0.0),
        discharge_ah=of("discharge_ah") + np.maximum(-moved, 0.0),
        charge_wh=of("charge_wh") + np.where(current > 0.0, energy, 0.0),
        discharge_wh=of("discharge_wh") + np.where(current < 0.0, -energy, 0.0),
        heat_k=settled + (of("heat_k") - settled) * warm,
    )


def held_voltage(
    curve: Curve,
    now_r: float,
    capacity_ah: float,
    soc: float,
    volts: float,
    most_a: float,
    cutoff_a: float,
) -> tuple[Floats, float] | None:
    """Nodes (ms, A, Ah since the start) of a charge at constant voltage, and where it ends.

    The RC pair counts as settled (`now_r` = R0 + R1): it follows a current that falls slowly. None
    where the current starts below the cut-off.
    """  # fmt: skip
    full = curve.at_voltage(volts - cutoff_a * now_r)
    if full <= soc:
        return None
    first = min((volts - curve.one(soc)) / now_r, most_a)
    if first <= cutoff_a:
        return None
    # Placed so that the current falls by about the same factor from one node to the next.
    ratio = cutoff_a / first
    share = (1.0 - ratio ** (np.arange(_NODES + 1) / _NODES)) / (1.0 - ratio)
    places = soc + (full - soc) * share
    current = np.clip((volts - curve.both(places)[0]) / now_r, cutoff_a, first)
    charge = (places - soc) * capacity_ah / EFFICIENCY
    seconds = 3600.0 * np.diff(charge) / ((current[1:] + current[:-1]) / 2.0)
    ms = np.concatenate(([0.0], np.cumsum(seconds))) * 1000.0
    return np.stack((ms, current, charge)), float(full)
