"""Cells whose whole life is known, to train and judge models of the remaining life.

`simulated` are the simulator's own, by its truth; `drawn` are curves of other shapes, because cells
fade in more ways than the simulator's three straight lines; `of_warehouse` are those of a
warehouse. Simulated and drawn cells are measured as real ones are: with noise, outliers, cycles
that do not count and resistances that are not known.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import duckdb
import numpy as np

from pipeline.errors import ConfigError
from pipeline.report import warehouse as report_warehouse
from pipeline.shown import address
from pipeline.sources.simulation import truth
from pipeline.sources.simulation.config import FleetConfig
from transforms.life.features import LEAST_POINTS
from transforms.life.history import Floats, Point

LIVES: Final = (200.0, 2000.0)  # cycles to 80 %, drawn evenly by their logarithm
_CHEMISTRIES: Final = ("default", "lco", "nmc", "lfp")
_NOMINAL_AH: Final = 2.0


@dataclass(frozen=True)
class LifeCell:
    """One cell over its life.

    Attributes:
        name: of the cell; splits between training, calibration and test are by it.
        family: what kind of fade or where from, for tables.
        points: what was measured, in order.
        cycle: cycle numbers of the whole life, (k,).
        throughput: equivalent full cycles up to each, (k,).
        soh: true state of health in each, (k,): what the end of life is judged by.
        trend: the same without what comes and goes, (k,): what the knee is judged by.
        knee: whether the fade turns fast before 80 %, where that is known.
        onset: cycle number at which it begins to, None where there is none or it is gradual.
        is_own: whether it is of those that the model is for, so that its age says something.
    """

    name: str
    family: str
    points: tuple[Point, ...]
    cycle: Floats
    throughput: Floats
    soh: Floats
    trend: Floats
    knee: bool | None = None
    onset: float | None = None
    is_own: bool = False

    def end(self, threshold: float) -> tuple[float, float] | None:
        """Cycle number and throughput of the first cycle below; None where none is."""
        below = self.soh < threshold
        if not below.any():
            return None
        at = int(np.argmax(below))
        return float(self.cycle[at]), float(self.throughput[at])


def simulated(count: int, seed: int, first: int = 0) -> Iterator[LifeCell]:
    """Cells of the simulator: chemistries take turns; half of those in steps have a knee."""
    for number in range(first, first + count):
        dice = np.random.default_rng((seed, number, 1))
        cell = None
        while cell is None:
            cell = _simulated(dice, number, seed)
        yield cell


def _simulated(dice: np.random.Generator, number: int, seed: int) -> LifeCell | None:
    chemistry = _CHEMISTRIES[number % len(_CHEMISTRIES)]
    life = math.exp(dice.uniform(*np.log(LIVES)))
    given: dict[str, Any] = {
        "equipment": 1,
        "machines": 0,
        "seed": int(dice.integers(1, 2**31)),
        "chemistry": chemistry,
        "nominal_ah": _NOMINAL_AH,
        "temperature": float(dice.choice((10.0, 25.0, 25.0, 25.0, 40.0))),
        "cycles": 900,
    }
    electrodes = chemistry == "default" and dice.random() < 0.5
    if not electrodes:
        given |= {"fade": 2000.0 / life, "cycles": int(1.8 * life)}
        if dice.random() < 0.5:
            given["knee"] = max(20, int(life * dice.uniform(0.25, 1.0)))
    # Health against nominal or against what the cell began with, as a profile has it.
    against_nominal = dice.random() < 0.5
    return _of_fleet(
        dice, FleetConfig(**given), 0, f"sim_{seed}_{number:05d}", _protocol(dice), against_nominal
    )


def alike(config: FleetConfig, prefix: str, seed: int) -> Iterator[LifeCell]:
    """All cells of a fleet that is run alike, as a user's own are; they count as own cells."""
    for number in range(config.cell_count):
        dice = np.random.default_rng((seed, number, 3))
        cell = _of_fleet(dice, config, number, f"{prefix}_{number:05d}", (1, 1.0), True)
        if cell is not None:
            yield replace(cell, is_own=True)


def _of_fleet(
    dice: np.random.Generator,
    config: FleetConfig,
    number: int,
    name: str,
    protocol: tuple[int, float],
    against_nominal: bool,
) -> LifeCell | None:
    """A cell of the simulator as it is measured; None where it does not reach 75 %."""
    found = truth.capacities(config, number)
    cycle = np.arange(1.0, found.cycle[-1] + 2.0)
    capacity = np.interp(cycle, found.cycle + 1.0, found.capacity_ah)
    ohms = np.interp(cycle, found.cycle + 1.0, found.resistance_ohm)
    soh = capacity / (config.nominal_ah if against_nominal else float(np.median(capacity[1:6])))
    if soh[0] < 0.86 or soh.min() > 0.75:
        return None
    every, depth = protocol
    moved = np.where(np.arange(cycle.size) % every == 0, 1.0, depth) * capacity
    throughput = np.cumsum(moved) / config.nominal_ah
    onset = None if config.knee is None else 0.8 * config.knee
    return LifeCell(
        name=name,
        family=config.chemistry if config.in_steps else "default electrodes",
        points=_measured(
            dice, cycle, throughput, soh, ohms, np.arange(0, cycle.size, every), 0.0006
        ),
        cycle=cycle,
        throughput=throughput,
        soh=soh,
        trend=soh,
        knee=not config.in_steps or (onset is not None and onset < cycle[np.argmax(soh < 0.8)]),
        onset=onset,
    )


def _protocol(dice: np.random.Generator) -> tuple[int, float]:
    """Every which cycle measures the capacity, and how deep the others are."""
    if dice.random() < 0.6:
        return 1, 1.0
    return int(dice.choice((2, 5, 10, 20))), float(dice.choice((1.0, 0.5, 0.4, 0.75)))


def drawn(count: int, seed: int, first: int = 0) -> Iterator[LifeCell]:
    """Cells whose fade is a sum of an early loss, a power of time and perhaps an acceleration."""
    for number in range(first, first + count):
        dice = np.random.default_rng((seed, number, 2))
        cell = None
        while cell is None:
            cell = _drawn(dice, number, seed)
        yield cell


def _drawn(dice: np.random.Generator, number: int, seed: int) -> LifeCell | None:
    life = math.exp(dice.uniform(*np.log(LIVES)))
    cycle = np.arange(1.0, 1.7 * life)
    t = cycle / life
    early = 1.0 - np.exp(-t / math.exp(dice.uniform(math.log(0.01), math.log(0.3))))
    steady = t ** math.exp(dice.normal(-0.1, 0.35))
    kind = ("steady", "bend", "exponential", "power")[int(dice.choice(4, p=(0.3, 0.4, 0.15, 0.15)))]
    at = dice.uniform(0.2, 1.0)
    if kind == "bend":
        width = at * math.exp(dice.uniform(math.log(0.005), math.log(0.12)))
        late = width * np.logaddexp(0.0, (t - at) / width)
    elif kind == "exponential":
        late = np.exp(np.minimum(dice.uniform(3.0, 12.0) * (t - 1.0), 20.0))
    elif kind == "power":
        late = t ** dice.uniform(2.0, 10.0)
    else:
        late = np.zeros_like(t)
    share = np.array(
        [dice.gamma(0.5), dice.gamma(1.5), dice.gamma(1.5) if kind != "steady" else 0.0]
    )
    parts = np.stack((early, steady, late))
    at_end = np.array([max(float(np.interp(1.0, t, part)), 1e-9) for part in parts])
    fresh = dice.normal(1.01, 0.03)
    loss = (fresh - 0.8) * (share / share.sum() / at_end) @ parts
    rise = max(dice.normal(0.0, 0.006), 0.0) * (1.0 - np.exp(-t / dice.uniform(0.01, 0.1)))
    trend = np.maximum(fresh - loss + rise, 0.25)
    soh = trend + _wander(dice, t) + _recoveries(dice, t)
    soh = _median_of_5(soh)
    if soh[:5].min() < 0.86:
        return None
    every, depth = _protocol(dice)
    counts = np.where(np.arange(cycle.size) % every == 0, 1.0, depth)
    throughput = np.cumsum(counts * np.minimum(soh, 1.2))
    lost = np.maximum(fresh - trend, 0.0)
    ohms = 0.05 * (
        1.0 + dice.uniform(0.0, 4.0) * lost ** dice.uniform(0.7, 1.5) + 0.1 * dice.random() * t
    )
    below = soh < 0.8
    if not below.any():
        return None
    return LifeCell(
        name=f"drawn_{seed}_{number:05d}",
        family=kind,
        points=_measured(dice, cycle, throughput, soh, ohms, np.arange(0, cycle.size, every), 0.0),
        cycle=cycle,
        throughput=throughput,
        soh=soh,
        trend=trend,
    )


def _wander(dice: np.random.Generator, t: Floats) -> Floats:
    """What comes and goes slowly, as with the room's temperature; nothing in half of the cells."""
    if dice.random() < 0.5:
        return np.zeros_like(t)
    size = min(0.002 * math.exp(dice.normal(0.0, 0.9)), 0.015)
    keep = math.exp(-(t[1] - t[0]) / dice.uniform(0.01, 0.2))
    steps = dice.normal(0.0, size * math.sqrt(1.0 - keep * keep), t.size)
    out = np.empty_like(t)
    value = dice.normal(0.0, size)
    for place, step in enumerate(steps.tolist()):
        value = keep * value + step
        out[place] = value
    return out


def _recoveries(dice: np.random.Generator, t: Floats) -> Floats:
    """Capacity that returns while a cell rests and is lost again."""
    out = np.zeros_like(t)
    if dice.random() < 0.6:
        return out
    for at in dice.uniform(0.0, t[-1], int(dice.integers(1, 15))):
        after = np.maximum(t - at, 0.0)
        fall = np.exp(-after / math.exp(dice.uniform(math.log(0.003), math.log(0.05))))
        out += np.where(t >= at, dice.uniform(0.002, 0.015) * fall, 0.0)
    return out


def _median_of_5(values: Floats) -> Floats:
    padded = np.concatenate((values[:1], values[:1], values, values[-1:], values[-1:]))
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1)


def _measured(
    dice: np.random.Generator,
    cycle: Floats,
    throughput: Floats,
    soh: Floats,
    ohms: Floats,
    at: np.ndarray[Any, np.dtype[np.int64]],
    scatter: float,
) -> tuple[Point, ...]:
    """Points at these places with noise and outliers; some lack errors or resistances."""
    noise = math.hypot(min(0.001 * math.exp(dice.normal(0.0, 0.9)), 0.012), scatter)
    seen = soh[at] + dice.normal(0.0, noise, at.size)
    if dice.random() < 0.4:
        dips = dice.random(at.size) < dice.uniform(0.0, 0.04)
        seen = np.where(dips, seen * dice.uniform(0.8, 1.0, at.size), seen)
    error = math.nan if dice.random() < 0.3 else noise * math.exp(dice.normal(0.0, 0.3))
    known = dice.random() < 0.5
    resistance = ohms[at] * (1.0 + dice.normal(0.0, 0.01, at.size))
    return tuple(
        Point(int(cycle[k]), float(throughput[k]), float(s), error, float(r) if known else math.nan)
        for k, s, r in zip(at.tolist(), seen, resistance, strict=True)
    )


def seen_from(cell: LifeCell, cycle: float) -> LifeCell:
    """The cell as if its record began at this cycle."""
    return replace(cell, points=tuple(p for p in cell.points if p.cycle >= cycle))


KNEE: Final = (
    "within the next 0.2 spans (a span is the throughput of the history so far) the fade over some "
    "0.05 spans is more than twice the mean fade of the last 0.2 spans; that fade counts as at least "
    "0.005 of the state of health per span"
)


def knee_ahead(cell: LifeCell, throughput: float, span: float) -> bool:
    """Whether the fade soon turns fast, by the cell's truth: see KNEE.

    Args:
        cell: the cell.
        throughput: where it stands, equivalent full cycles.
        span: throughput of the history so far.
    """
    last = float(cell.throughput[-1])
    begins = throughput + np.linspace(0.0, 0.15, 31) * span
    begins = begins[begins + 0.05 * span <= last]
    if begins.size == 0:
        return False

    def soh(at: Floats | float) -> Any:
        return np.interp(at, cell.throughput, cell.trend)

    before = float(soh(throughput - 0.2 * span) - soh(throughput)) / (0.2 * span)
    fade = (soh(begins) - soh(begins + 0.05 * span)) / (0.05 * span)
    return bool(np.max(fade) > 2.0 * max(before, 0.005 / span))


_HEALTH: Final = """
    select
        battery_health.equipment_id,
        battery_health.cycle_number,
        coalesce(battery_health.equivalent_full_cycles, battery_health.cycle_number),
        battery_health.capacity_ah / battery_health.nominal_capacity_ah,
        battery_health.soh_nominal,
        battery_cycles.dc_resistance_30s_ohm,
        battery_health.temperature_mean_c
    from battery_health
    inner join battery_cycles using (cycle_key)
    where battery_health.is_reference and battery_health.soh_nominal is not null
    order by battery_health.equipment_id, battery_health.cycle_number
"""


def of_warehouse(warehouse: str) -> list[LifeCell]:
    """The cells of a warehouse that dbt's models were built in; it is only read.

    Their truth is the median capacity of battery_health; what was measured is each reference
    cycle's own. Cells that have not reached a threshold are no example of it.

    Raises:
        ConfigError: it is not there, or has no such models.
    """
    try:
        with report_warehouse.opened(warehouse) as database:
            rows = database.execute(_HEALTH).fetchall()
    except duckdb.CatalogException as error:
        raise ConfigError(
            f"--warehouse={address(warehouse)}: has no battery_health; build the models first: "
            f"python -m pipeline.models --warehouse={address(warehouse)}"
        ) from error
    cells = []
    for name, own in itertools.groupby(rows, key=lambda row: row[0]):
        table = np.array([row[1:] for row in own], np.float64)  # None becomes NaN
        cycle, throughput, measured, soh, ohms, warmth = table.T
        if cycle.size < LEAST_POINTS:
            continue
        cells.append(
            LifeCell(
                name=name,
                family="warehouse",
                points=tuple(
                    Point(int(k), x, y, math.nan, r, t)
                    for k, x, y, r, t in zip(
                        cycle.tolist(),
                        throughput.tolist(),
                        measured.tolist(),
                        ohms.tolist(),
                        warmth.tolist(),
                        strict=True,
                    )
                ),
                cycle=cycle,
                throughput=throughput,
                soh=soh,
                trend=_smooth(soh),
                is_own=True,
            )
        )
    return cells


def _smooth(values: Floats) -> Floats:
    """Mean of eleven, fewer at both ends."""
    ones = np.convolve(np.ones_like(values), np.ones(11), "same")
    mean: Floats = np.convolve(values, np.ones(11), "same") / ones
    return mean
