"""python -m tests.benchmarks.life: what is said of the remaining life, against what then happened.

Synthetic cells that no model was trained on and, where the data is, CALCE's CS2_35, each at 20, 40,
60 and 80 % of its life to 80 %: the error in cycles as a share of those left and of the whole life,
how often the 90 % interval holds the truth and how wide it is. The same for the straight line of
int_remaining_life and for the lives of the other cells. Then: knee warnings, and what it costs.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.prediction import model_file
from pipeline.prediction.remaining_life import SHIPPED, RemainingLife
from pipeline.sources.simulation.config import FleetConfig
from pipeline.training import life_cells, remaining_life
from pipeline.training.life_cells import LifeCell
from pipeline.training.remaining_life import Snapshot
from tests.benchmarks import life_others
from tests.benchmarks.life_others import NOTHING, Course, Said
from tests.calce import calce_folder
from transforms.life import features
from transforms.life.answer import NO_FADE
from transforms.life.history import History, Point

SHARES = (0.2, 0.4, 0.6, 0.8)
THRESHOLD = 0.8
_UNSEEN = 20_000  # a seed that no model is trained with
_WARNED = 0.5
# Like cells: gradual knees of the default's electrodes, and a sharp one with 10 % spread of fade.
FLEETS: dict[str, dict[str, Any]] = {
    "electrodes": {"cycles": 900},
    "knee": {"cycles": 700, "chemistry": "nmc", "fade": 4.0, "knee": 350},
    "steady": {"cycles": 900, "chemistry": "lfp", "fade": 4.0},
}


@dataclass(frozen=True)
class Judged:
    """What one method says of one cell at one moment, and the truth."""

    cell: str
    share: float
    life: float
    true: float
    said: Said
    reasons: tuple[str, ...] = ()

    @property
    def has_estimate(self) -> bool:
        """Whether it says a number."""
        return math.isfinite(self.said.cycles)

    @property
    def error(self) -> float:
        """In cycles."""
        return abs(self.said.cycles - self.true)

    @property
    def has_range(self) -> bool:
        """Whether it says an interval with two ends."""
        return math.isfinite(self.said.low) and math.isfinite(self.said.high)

    @property
    def holds(self) -> bool:
        """Whether the truth lies within, an end that is missing being no bound."""
        high = self.said.high if math.isfinite(self.said.high) else math.inf
        return self.said.low <= self.true <= high


def calce(folder: Path) -> LifeCell:
    """CS2_35 by its reference figures per cycle: the complete cycles, against the nominal 1.1 Ah."""
    with (folder / "CS2_35_per_cycle.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["complete"] == "True"]
    cycle = np.array([float(row["cyc"]) for row in rows])
    soh = np.array([float(row["qd"]) for row in rows]) / 1.1
    moved = np.cumsum([float(row["qc"]) + float(row["qd"]) for row in rows]) / 2.2
    ohms = [float(row["ir"]) or math.nan for row in rows]
    median = np.array([np.median(soh[max(0, k - 2) : k + 3]) for k in range(soh.size)])
    points = [
        Point(int(k), x, y, math.nan, r)
        for k, x, y, r in zip(cycle.tolist(), moved.tolist(), soh.tolist(), ohms, strict=True)
    ]
    return LifeCell("CS2_35", "CALCE", tuple(points), cycle, moved, median, median)


def at_shares(cells: Iterable[LifeCell], shares: Sequence[float]) -> list[Snapshot]:
    """Snapshots of all cells; a cell whose history is too short then has none."""
    return [
        one
        for cell in cells
        for one in remaining_life.snapshots(cell, shares, [THRESHOLD] * len(shares))
    ]


def by_model(model: RemainingLife, found: Sequence[Snapshot]) -> list[Judged]:
    """What the model says."""
    out = []
    for one, said in zip(found, model.of([s.features for s in found]), strict=True):
        ends = [
            math.nan if v is None else v for v in (said.cycles, said.cycles_low, said.cycles_high)
        ]
        out.append(Judged(one.cell, one.share, one.life, one.cycles, Said(*ends), said.reasons))
    return out


def by_others(cells: Sequence[LifeCell], found: Sequence[Snapshot]) -> dict[str, list[Judged]]:
    """What the straight line and the other cells say."""
    ends = [cell.end(THRESHOLD) for cell in cells]
    lives = [math.nan if end is None else end[0] for end in ends]
    courses = [Course.of(cell, life) for cell, life in zip(cells, lives, strict=True)]
    place = {cell.name: k for k, cell in enumerate(cells)}
    out: dict[str, list[Judged]] = {
        "straight line": [],
        "mean life of others": [],
        "others at same health": [],
    }
    for one in found:
        own = place[one.cell]
        several = len(cells) > 1
        said = {
            "straight line": life_others.straight_line(cells[own], one.now, THRESHOLD),
            "mean life of others": life_others.mean_life(lives, own, one.now)
            if several
            else NOTHING,
            "others at same health": (
                life_others.same_health(courses, own, one.features.soh) if several else NOTHING
            ),
        }
        for name, each in said.items():
            out[name].append(Judged(one.cell, one.share, one.life, one.cycles, each))
    return out


def lines(name: str, judged: Sequence[Judged], wanted: int) -> Iterator[str]:
    """A line for each share of life and one for all; `wanted` cells were to be judged at each."""
    groups = [(f"{share:.0%}", [one for one in judged if one.share == share]) for share in SHARES]
    if any(one.share not in SHARES for one in judged):
        groups = []
    for label, own in [*groups, ("all", list(judged))]:
        count = wanted if label != "all" else wanted * max(len(groups), 1)
        told = [one for one in own if one.has_estimate]
        if not told:
            yield f"{name:<22} {label:>4} {0:>4}/{count:<4} nothing said"
            continue
        rest = np.array([one.error / one.true for one in told])
        life = np.array([one.error / one.life for one in told])
        ranged = [one for one in own if math.isfinite(one.said.low)]
        bounded = [one for one in ranged if one.has_range]
        width = [(one.said.high - one.said.low) / one.life for one in bounded]
        yield (
            f"{name:<22} {label:>4} {len(told):>4}/{count:<4} {rest.mean():>9.1%} "
            f"{np.median(rest):>8.1%} {life.mean():>8.1%} {np.median(life):>8.1%} "
            f"{_share(one.holds for one in ranged):>9} {_share(one.holds for one in bounded):>9} "
            f"{(f'{np.median(width):.0%}' if width else '-'):>7}"
        )


HEAD = (
    f"{'':<22} {'':>4} {'said of':>9} {'MAPE':>9} {'median':>8} {'of life':>8} {'median':>8} "
    f"{'coverage':>9} {'bounded':>9} {'width':>7}"
)


def _share(right: Iterable[bool]) -> str:
    values = list(right)
    return f"{sum(values) / len(values):.0%}" if values else "-"


def unsaid(judged: Sequence[Judged], wanted: int) -> str:
    """Of how many nothing or only a lower end is said, and why."""
    short = wanted * len(SHARES) - len(judged)
    outside = [one for one in judged if any(r.startswith("out_of") for r in one.reasons)]
    flat = [one for one in judged if NO_FADE in one.reasons]
    total = wanted * len(SHARES)
    held = _share(one.holds for one in flat)
    return (
        f"of {total}: out of domain {len(outside) / total:.1%}, too little history "
        f"{short / total:.1%}, no fade yet {len(flat) / total:.1%} (lower end holds in {held})"
    )


def knees(model: RemainingLife, cells: Sequence[LifeCell]) -> Iterator[str]:
    """Warnings every 2.5 % of life: by moment against what then happened, and by cell."""
    grid = np.arange(0.1, 1.0, 0.025).round(4).tolist()
    found = at_shares(cells, grid)
    risks = [one.knee_risk for one in model.of([s.features for s in found])]
    told = [(s, r) for s, r in zip(found, risks, strict=True) if r is not None]
    ahead = np.array([s.knee_ahead for s, _ in told])
    risk = np.array([r for _, r in told])
    warned = risk >= _WARNED
    yield (
        f"by moment: {len(told)}, a knee ahead in {ahead.mean():.1%}, mean risk {risk.mean():.1%}; "
        f"found {warned[ahead].mean():.1%}, false of the warnings {(~ahead[warned]).mean():.1%}, "
        f"false of the moments without one {warned[~ahead].mean():.1%}"
    )
    edges = (0.0, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 1.01)
    for low, high in itertools.pairwise(edges):
        own = (risk >= low) & (risk < high)
        if own.any():
            yield f"  risk {low:.2f} to {min(high, 1):.2f}: {own.sum():>5} moments, {ahead[own].mean():.1%} came true"
    by_cell: dict[str, list[tuple[Snapshot, float]]] = {}
    for snapshot, one in told:
        by_cell.setdefault(snapshot.cell, []).append((snapshot, one))
    known = {cell.name: cell for cell in cells if cell.onset is not None or cell.knee is False}
    with_knee = [c for c in known.values() if c.knee and c.name in by_cell]
    without = [c for c in known.values() if not c.knee and c.name in by_cell]
    seen, left = 0, []
    for cell in with_knee:
        times = [s for s, r in by_cell[cell.name] if r >= _WARNED and s.now >= (cell.onset or 0.0)]
        if times:
            seen += 1
            left.append(1.0 - times[0].share)
    false = sum(any(r >= _WARNED for _, r in by_cell[c.name]) for c in without)
    early = sum(
        any(
            r >= _WARNED and s.now < (c.onset or 0.0) and not s.knee_ahead
            for s, r in by_cell[c.name]
        )
        for c in with_knee
    )
    yield (
        f"by cell: of {len(with_knee)} with a knee before the end {len(with_knee) - seen} never warned "
        f"after its onset; the others with {np.median(left) if left else math.nan:.0%} of life left "
        f"(median); {early} warned before without cause; of {len(without)} without a knee {false} warned"
    )


def cost(model: RemainingLife, cell: LifeCell) -> str:
    """Microseconds of a point and of a prediction, and bytes of the state."""
    history = History()
    started = time.perf_counter()
    end = cell.end(THRESHOLD)
    points = [p for p in cell.points if end is not None and p.cycle < 0.95 * end[0]]
    for point in points:
        history = History.from_bytes(history.to_bytes())
        history.add(point)
    each = (time.perf_counter() - started) / len(points)
    started = time.perf_counter()
    for _ in range(100):
        found = features.of(history, THRESHOLD)
    computed = (time.perf_counter() - started) / 100
    started = time.perf_counter()
    for _ in range(100):
        model.of([found])
    ran = (time.perf_counter() - started) / 100
    model.of([found] * 100)
    started = time.perf_counter()
    model.of([found] * 100)
    packed = (time.perf_counter() - started) / 100
    return (
        f"a point with state read and written {each * 1e6:.0f} µs; features {computed * 1e6:.0f} µs; "
        f"model {ran * 1e6:.0f} µs alone, {packed * 1e6:.0f} µs in batches of 100; state "
        f"{len(history.to_bytes()):,} bytes after {len(history):,} points"
    )


def _table(title: str, model: RemainingLife, cells: Sequence[LifeCell]) -> list[Judged]:
    found = at_shares(cells, SHARES)
    judged = by_model(model, found)
    print(f"\n{title}\n{HEAD}")
    for name, each in ({"model": judged} | by_others(cells, found)).items():
        print("\n".join(lines(name, each, len(cells))))
    print(unsaid(judged, len(cells)))
    return judged


def _trained(cells: Iterable[LifeCell]) -> RemainingLife:
    """A model that learned from these alone."""
    made, card = remaining_life.train_on(cells, "cells of a benchmark")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        model_file.write(path, made, card)
        return RemainingLife(path)


def _own(shipped: RemainingLife, count: int) -> None:
    """Fleets of like cells: with the shipped model, and with one that learned from others of it."""
    for name, setting in FLEETS.items():
        config = FleetConfig(equipment=count + 60, machines=0, seed=77, **setting)
        cells = list(life_cells.alike(config, name, 77))
        learned = _trained(cells[:count])
        mixed = _trained(itertools.chain(cells[:count], remaining_life.synthetic(600)))
        rest = cells[count:]
        found = at_shares(rest, SHARES)
        title = f"{len(rest)} cells of fleet {name}, whose {count} others are known"
        print(f"\n{title}\n{HEAD}")
        judged = {
            "model that ships": by_model(shipped, found),
            "learned from others": by_model(learned, found),
            "and 600 synthetic": by_model(mixed, found),
        }
        others = by_others(cells, found)
        for label, each in (judged | others).items():
            print("\n".join(lines(label, each, len(rest))))


def main() -> int:
    """Prints the tables; 1 where the intervals' coverage on simulated cells is not as wanted."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.life", description=__doc__)
    parser.add_argument("--model", default=str(SHIPPED))
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--seed", type=int, default=_UNSEEN)
    parser.add_argument("--unlike", type=int, default=0, metavar="N",
                        help="also train on N drawn cells alone and judge simulated ones by that")  # fmt: skip
    parser.add_argument("--own", type=int, default=0, metavar="N",
                        help="also judge a fleet of like cells by a model that learned from N others of it")  # fmt: skip
    flags = parser.parse_args()
    model = RemainingLife(flags.model)
    if model.card["training"]["seed"] == flags.seed:
        parser.error(f"--seed={flags.seed}: the model was trained with it; give another")
    print(f"model {model.version}; errors: share of the cycles left (MAPE), share of life")
    cells = list(life_cells.simulated(flags.cells, flags.seed))
    judged = _table(f"{len(cells)} simulated cells", model, cells)
    for family in sorted({cell.family for cell in cells}):
        names = {cell.name for cell in cells if cell.family == family}
        own = [one for one in judged if one.cell in names]
        print("\n".join([*lines(f"model, {family}", own, len(names))][-1:]))
    _table(f"{flags.cells} drawn cells", model, list(life_cells.drawn(flags.cells, flags.seed)))
    folder = calce_folder()
    if folder is None:
        print("\nCALCE: no data")
    else:
        cell = calce(folder)
        _table("CALCE CS2_35", model, [cell])
        found = at_shares([cell], [k / 100 for k in range(3, 100)])
        print("every per cent of its life:")
        for name, each in ({"model": by_model(model, found)} | by_others([cell], found)).items():
            print("\n".join(lines(name, each, len(found))))
    print("\nknees, simulated cells")
    print("\n".join(knees(model, cells)))
    print("\ncost: " + cost(model, max(cells, key=lambda one: len(one.points))))
    if flags.unlike:
        learned = _trained(life_cells.drawn(flags.unlike, 1))
        _table(f"simulated cells, by a model of {flags.unlike} drawn cells alone", learned, cells)
    if flags.own:
        _own(model, flags.own)
    ranged = [one.holds for one in judged if one.has_range]
    coverage = sum(ranged) / len(ranged)
    print(f"\ncoverage on simulated cells {coverage:.1%}, wanted 85 to 95 %")
    return 0 if 0.85 <= coverage <= 0.95 else 1


if __name__ == "__main__":
    sys.exit(main())
