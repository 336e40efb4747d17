"""Decides what counters of charge and energy count, in what unit, and where they restart."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from schemas.aliases import CAPACITY, ENERGY, NET_CAPACITY, normalise
from transforms.interpret.frame import F64, Frame, Mask, counts_below_zero
from transforms.interpret.interpretation import Kept, Use, Witness
from transforms.interpret.timeline import Clocks

# A counter agrees with the integral of the current if their ratio is within this of 1...
_AGREES = 0.05
# ...and is the same in another unit if it is within this of a unit's factor.
_UNIT_AGREES = 0.10
_UNITS = {1e3: ("mAh", 1e-3), 1e6: ("uAh", 1e-6), 3600.0: ("As", 1 / 3600), 1e-3: ("kAh", 1e3)}
_ENERGY_UNITS = {
    1e3: ("mWh", 1e-3),
    1e6: ("uWh", 1e-6),
    3600.0: ("J", 1 / 3600),
    1e-3: ("kWh", 1e3),
}
# Below this share of the throughput a difference is noise.
_NOISE = 0.02

SIDES = {
    "charge_capacity_ah": Kept.CHARGE,
    "discharge_capacity_ah": Kept.DISCHARGE,
    "charge_energy_wh": Kept.CHARGE,
    "discharge_energy_wh": Kept.DISCHARGE,
}


@dataclass
class Counters:
    """What was decided about counters; see `Interpretation`."""

    uses: list[Use] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    grain: str | None = None
    in_order: bool = False
    witnesses: list[Witness] = field(default_factory=list)
    disagreements: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Flow:
    """What flowed between each row and the one before it.

    Attributes:
        into: integral of the positive part, in Ah or Wh, shape (n,), 0 where not known.
        out: of the negative part, likewise, not negative.
        first: whether a row is the first of its equipment.
        known: whether there is a time between the rows at all.
    """

    into: F64
    out: F64
    first: Mask
    known: bool


def flow(current: F64, clocks: Clocks) -> Flow:
    """The integral of a current (A) or a power (W) per row, by direction."""
    interval = clocks.interval
    amount = moved(current, interval)
    return Flow(
        np.maximum(amount, 0.0),
        np.maximum(-amount, 0.0),
        clocks.first,
        bool(np.isfinite(interval).any()),
    )


def moved(flowing: F64, interval_s: F64, turns: Mask | None = None) -> F64:
    """The integral per row since the row before, in Ah or Wh: trapezoid, rectangle at a turn.

    Args:
        flowing: current (A) or power (W), shape (n,); NaN counts as 0.
        interval_s: seconds since the row before, shape (n,); NaN counts as 0.
        turns: where a step begins; a change of sign is a turn anyhow.
    """
    hours = np.where(np.isfinite(interval_s), interval_s, 0.0) / 3600.0
    values = np.where(np.isfinite(flowing), flowing, 0.0)
    mean = values.copy()
    same = np.sign(values[1:]) == np.sign(values[:-1])
    if turns is not None:
        same &= ~turns[1:]
    mean[1:] = np.where(same, (values[1:] + values[:-1]) / 2.0, values[1:])
    amount: F64 = mean * hours
    return amount


def growth(
    values: F64,
    first: Mask,
    expected: F64 | None = None,
    turns: Mask | None = None,
    only_up: bool = False,
) -> tuple[F64, F64]:
    """What a counter gains per row, and what it loses; a fall to half or less is a restart.

    Args:
        values: the counter in order of measurement, shape (n,), NaN where missing.
        first: whether a row is the first of its equipment.
        expected: of a counter that falls with the current, what should have been added since the
            row before, negative where it falls. Of going on and starting at 0 again the one that
            is nearer to it happened.
        turns: where a step or cycle begins: there a counter may start again that had counted so
            little that the difference is small.
        only_up: whether the counter never falls but at a restart.
    """
    filled = _filled(values, first)
    steps = np.zeros(len(filled))
    steps[1:] = np.diff(filled)
    steps[first] = 0.0
    if expected is None:
        restart = (steps < 0) & (np.abs(filled) <= 0.5 * np.abs(filled - steps))
    else:
        going_on, starting = np.abs(steps - expected), np.abs(filled - expected)
        clear = going_on > 0.25 * np.abs(expected) + 1e-12
        if turns is not None:
            clear |= turns & (going_on > 0.002 * np.abs(expected) + 1e-12)
        restart = (starting < 0.5 * going_on) & clear
        restart &= ~first
    if only_up:
        # A dip is no loss, and no gain when it is made up for.
        run = np.cumsum(restart | first)
        span = float(np.ptp(filled)) + 1.0 if len(filled) else 1.0
        top = np.maximum.accumulate(filled + run * span) - run * span
        steps[1:] = np.diff(top)
        steps[first] = 0.0
    gained = np.where(restart, np.maximum(filled, 0.0), np.maximum(steps, 0.0))
    lost = np.where(restart, np.maximum(-filled, 0.0), np.maximum(-steps, 0.0))
    return gained, lost


def _filled(values: F64, first: Mask) -> F64:
    """The values with the last known one in the place of what is missing."""
    known = np.isfinite(values)
    place = np.where(known, np.arange(len(values)), 0)
    begins = np.flatnonzero(first)
    place[begins] = begins
    place = np.maximum.accumulate(place)
    out = values[place]
    return np.where(np.isfinite(out), out, 0.0)


def decide(frame: Frame, clocks: Clocks, charge: Flow, energy: Flow) -> Counters:
    """What the columns of capacity and energy count.

    Args:
        frame: the table.
        clocks: its times.
        charge: the integral of the current.
        energy: the integral of the power.
    """
    found = Counters()
    for names, single, net, current in (
        (("charge_capacity_ah", "discharge_capacity_ah"), CAPACITY, NET_CAPACITY, charge),
        (("charge_energy_wh", "discharge_energy_wh"), ENERGY, "", energy),
    ):
        pair = [_chosen(frame, found, name) for name in names]
        if all(pair):
            _take_pair(frame, clocks, found, list(zip(names, pair, strict=True)), current)
            found.left += frame.columns.get(single, []) + frame.columns.get(net, [])
            continue
        lone = [(name, column) for name, column in zip(names, pair, strict=True) if column]
        if lone:
            _take_lone(frame, clocks, found, *lone[0], current)
            found.left += frame.columns.get(single, []) + frame.columns.get(net, [])
            continue
        candidates = frame.columns.get(net, []) + frame.columns.get(single, [])
        _take_single(frame, clocks, found, candidates, names, current)
    capacity = next((u for u in found.uses if u.field.endswith("capacity_ah")), None)
    if capacity is not None:
        found.grain = _grain(frame, clocks, capacity.column)
    return found


def ratio_to_integral(frame: Frame, clocks: Clocks, charge: Flow) -> float | None:
    """All that counters of charge counted over the integral of the current; None without either."""
    columns = [
        column
        for name in ("charge_capacity_ah", "discharge_capacity_ah")
        for column in frame.columns.get(name, [])[:1]
    ] or frame.columns.get(CAPACITY, [])[:1]
    total = float(charge.into.sum() + charge.out.sum())
    if not columns or total <= 0:
        return None
    counted = 0.0
    for column in columns:
        if frame.meanings[column].unit is None and column not in SIDES and not _in_ah(column):
            return None  # two unknown units decide nothing
        gained, _ = growth(np.abs(frame.scaled(column)[clocks.perm]), charge.first)
        counted += float(gained.sum())
    return counted / total if counted > 0 else None


def _in_ah(column: str) -> bool:
    """Whether a name without a unit is one: `Amp-hr`."""
    return normalise(column) in ("amp_hr", "ah", "amp_hrs", "amphr", "ah_step")


def _chosen(frame: Frame, found: Counters, name: str) -> str | None:
    """The best named column that counts anything."""
    columns = frame.columns.get(name, [])
    if not columns:
        return None
    moving = [column for column in columns if frame.varying(column)]
    chosen = (moving or columns)[0]
    found.left += [column for column in columns if column != chosen]
    return chosen


def _use(frame: Frame, column: str, field_name: str, kept: Kept) -> Use:
    unit = frame.meanings[column].unit
    if unit is None:
        return Use(column, field_name, "", 1.0, kept=kept)
    return Use(column, field_name, unit.text, unit.scale, kept=kept)


def _ratio(counted: float, flowed: float, throughput: float) -> float | None:
    if flowed <= _NOISE * throughput or counted <= 0:
        return None
    return counted / flowed


def _with_unit(
    frame: Frame, use: Use, ratio: float | None, energy: bool
) -> tuple[Use, float | None]:
    """The use in the unit that the integral shows, where the name has none."""
    if ratio is None or frame.meanings[use.column].unit is not None:
        return use, ratio
    if use.column == use.field:  # its own name says the unit
        return use, ratio
    for factor, (text, scale) in (_ENERGY_UNITS if energy else _UNITS).items():
        if abs(ratio / factor - 1.0) <= _UNIT_AGREES:
            signed = float(np.copysign(scale, use.scale))
            scaled = Use(use.column, use.field, text, signed, why="integral", kept=use.kept)
            return scaled, ratio / factor
    return use, ratio


def _side(name: str) -> str:
    """What a counter of one direction speaks of."""
    kind = "energy " if name.endswith("_wh") else ""
    return kind + ("charge" if name.startswith("charge") else "discharge")


def _tell(found: Counters, use: Use, side: str, ratio: float | None) -> None:
    if ratio is not None:
        found.witnesses.append(Witness(side, f"{use.column} / integral", ratio))


def _take_pair(
    frame: Frame, clocks: Clocks, found: Counters, pair: list[tuple[str, str | None]], flowed: Flow
) -> None:
    total = float(flowed.into.sum() + flowed.out.sum())
    is_energy = pair[0][0].endswith("_wh")
    for name, column in pair:
        assert column is not None
        use = _use(frame, column, name, SIDES[name])
        values = frame.scaled(column)[clocks.perm]
        if counts_below_zero(values):
            values = -values
            use = replace(use, scale=-use.scale, why="it counts below 0")
        gained, _ = growth(values, flowed.first)
        into = name.startswith("charge")
        ratio = _ratio(
            float(gained.sum()), float((flowed.into if into else flowed.out).sum()), total
        )
        use, ratio = _with_unit(frame, use, ratio, is_energy)
        found.uses.append(use)
        if flowed.known:
            _tell(found, use, _side(name), ratio)


def _take_lone(
    frame: Frame, clocks: Clocks, found: Counters, name: str, column: str, flowed: Flow
) -> None:
    """One named counter alone: it counts its side, or the net of both (PyBaMM's)."""
    use = _use(frame, column, name, SIDES[name])
    values = frame.scaled(column)[clocks.perm]
    side = 1.0 if name.startswith("charge") else -1.0
    gained, lost = growth(values, flowed.first, side * (flowed.into - flowed.out))
    total = float(flowed.into.sum() + flowed.out.sum())
    own, other = (
        (flowed.into, flowed.out) if name.startswith("charge") else (flowed.out, flowed.into)
    )
    if flowed.known and other.sum() > _NOISE * total and lost.sum() > 0.5 * other.sum():
        net = Kept.NET_CHARGE if name.startswith("charge") else Kept.NET_DISCHARGE
        ratio = _ratio(float(gained.sum()), float(own.sum()), total)
        use, ratio = _with_unit(frame, use, ratio, name.endswith("_wh"))
        use = Use(use.column, CAPACITY if name.endswith("_ah") else ENERGY, use.unit, use.scale,
                  why="it falls as the other direction flows", kept=net)  # fmt: skip
        found.in_order = True
    else:
        ratio = _ratio(float(gained.sum()), float(own.sum()), total)
        use, ratio = _with_unit(frame, use, ratio, name.endswith("_wh"))
    found.uses.append(use)
    if flowed.known:
        _tell(found, use, _side(name), ratio)


def _take_single(
    frame: Frame,
    clocks: Clocks,
    found: Counters,
    candidates: list[str],
    names: tuple[str, str],
    flowed: Flow,
) -> None:
    """A counter for both directions: used if it agrees with the integral of the current."""
    total = float(flowed.into.sum() + flowed.out.sum())
    best: tuple[float, Use, float] | None = None
    for column in candidates:
        if not flowed.known or total <= 0 or not frame.varying(column):
            continue
        values = frame.scaled(column)[clocks.perm]
        for kept, ratio in _kinds(values, flowed):
            field_name = CAPACITY if names[0].endswith("_ah") else ENERGY
            use = _use(frame, column, field_name, kept)
            use, scaled = _with_unit(frame, use, ratio, names[0].endswith("_wh"))
            if scaled is None:
                continue
            miss = abs(scaled - 1.0)
            if best is None or miss < best[0] - 0.005:
                best = (miss, use, scaled)
    chosen = None
    if best is not None:
        miss, use, ratio = best
        if miss <= _AGREES:
            chosen = use
            found.uses.append(use)
            found.in_order = True
        _tell(found, use, "charge" if use.field == CAPACITY else "energy", ratio)
        if miss > _AGREES and frame.meanings[use.column].unit is not None and miss < 10:
            found.disagreements.append("charge_disagrees")
    found.left += [c for c in candidates if chosen is None or c != chosen.column]


def _kinds(values: F64, flowed: Flow) -> list[tuple[Kept, float]]:
    """What a counter for both directions could be, each with its ratio to the integral."""
    net = flowed.into - flowed.out
    gained, lost = growth(values, flowed.first, net)
    turned_gained, turned_lost = growth(values, flowed.first, -net)
    into, out = float(flowed.into.sum()), float(flowed.out.sum())
    charging, discharging = flowed.into > flowed.out, flowed.out > flowed.into
    found = []
    magnitude_gained, _ = growth(np.abs(values), flowed.first)
    both = float(magnitude_gained[charging | discharging].sum())
    found.append((Kept.UNSIGNED, both / (into + out)))
    with_charge = float(gained[charging].sum()) + float(lost[discharging].sum())
    against = float(turned_lost[charging].sum()) + float(turned_gained[discharging].sum())
    found.append((Kept.NET_CHARGE, with_charge / (into + out)))
    found.append((Kept.NET_DISCHARGE, against / (into + out)))
    return found


def split(
    values: F64, kept: Kept, signed: F64, first: Mask, moved: F64, before: F64, turns: Mask
) -> tuple[F64, F64]:
    """A counter for both directions as one for what went in and one for what came out.

    Args:
        values: the counter in Ah or Wh in order of measurement, shape (n,), NaN where missing.
        kept: what it counts.
        signed: the current, positive where it charges.
        first: whether a row is the first of its equipment.
        moved: what flowed in either direction since the row before, in the counter's unit.
        before: what can have flowed from the test's start to each first row; 0 elsewhere.
        turns: where a step or cycle begins.

    Returns:
        two counters that never fall. They begin with what the counter had at the first row, where
        that can have flowed since the test began, else at 0.
    """
    direction = np.where(np.isfinite(signed), np.sign(signed), 0.0)
    if kept is Kept.UNSIGNED:
        gained, _ = growth(np.abs(values), first, moved, turns, only_up=True)
        into, out = np.where(direction > 0, gained, 0.0), np.where(direction < 0, gained, 0.0)
    else:
        charged = direction * moved
        net = charged if kept is Kept.NET_CHARGE else -charged
        gained, lost = growth(values, first, net, turns)
        into, out = (gained, lost) if kept is Kept.NET_CHARGE else (lost, gained)
    begun = np.abs(np.nan_to_num(values))
    begun = np.where(first & (begun <= 1.5 * before), begun, 0.0)
    into = into + np.where(direction > 0, begun, 0.0)
    out = out + np.where(direction < 0, begun, 0.0)
    return _running(into, first), _running(out, first)


def _running(steps: F64, first: Mask) -> F64:
    total = np.cumsum(steps)
    begins = np.flatnonzero(first)
    # What was there before an equipment's first row is not its own.
    base = np.repeat(total[begins] - steps[begins], np.diff(np.append(begins, len(steps))))
    return total - base


def _grain(frame: Frame, clocks: Clocks, column: str) -> str:
    """What a counter restarts with: the step if it does within cycles, else the cycle or the test."""
    values = _filled(frame.numbers(column)[clocks.perm], clocks.first)
    steps = np.zeros(len(values))
    steps[1:] = np.diff(values)
    steps[clocks.first] = 0.0
    restart = (steps < 0) & (np.abs(values) <= 0.5 * np.abs(values - steps))
    if not restart.any():
        return "test"
    cycles = frame.columns.get("cycle_index", [])
    if not cycles:
        return "step"
    numbers = frame.numbers(cycles[0])[clocks.perm]
    changed = np.zeros(len(values), dtype=bool)
    changed[1:] = numbers[1:] != numbers[:-1]
    return "cycle" if changed[restart].mean() > 0.5 else "step"
