"""python -m tests.benchmarks.health: state of health from partial windows, against the truth.

Simulated cells (`health_cells`) age while the kernel of `transforms.health` is handed only windows
of 10 to 30 % of their charge; CALCE's CS2_35 is handed windows in all widths and places, by
coefficients that were trained on simulated cells alone. Every figure is made online. Beside it
stands what papers do (`ahead`): a parabola from the window's charge to the state of health that is fitted
over the whole life of the same cell, the future included. `said` is the share of cycles of which a
figure was given, RMSE and the rest are of these; `unsaid` is the RMSE with those that the kernel
held back as too uncertain.

`--fit` calibrates the 90 % intervals on other simulated cells and writes them to coefficients.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tests.benchmarks.health_cells import WHOLE_CYCLES, Cell, Windows, calce, handed, simulated
from transforms import health
from transforms.health import Coefficients, CycleSegments

_FILE = Path(health.__file__).with_name("coefficients.json")
_CALCE = Path(__file__).resolve().parents[4] / "shared" / "data" / "calce"
CALIBRATION_SEED = 1000  # never the seed of cells that are judged
FIRST = 5  # cycles that are not judged: the reference is being made
WANTED = {"rmse": 0.015, "coverage": (0.85, 0.95)}


@dataclass(frozen=True)
class Judged:
    """The figures of one cell; arrays of shape (n,), NaN where nothing was said.

    Attributes:
        name: the cell's.
        traits: what tables are split by.
        true: state of health.
        found: what was said of it online.
        held: what the filter holds true, also where that is too uncertain to be said.
        low: lower end of the interval.
        high: upper end.
        ahead: what the way that looks ahead says; all NaN where its window is not there.
        reasons: how often nothing was said, by reason.
        state_bytes: of the state, at most.
    """

    name: str
    traits: dict[str, str]
    true: np.ndarray
    found: np.ndarray
    low: np.ndarray
    high: np.ndarray
    ahead: np.ndarray
    held: np.ndarray
    reasons: Counter[str]
    state_bytes: int


def judge(
    cell: Cell,
    windows: Windows,
    chosen: Coefficients | None = None,
    *,
    check_up_every: int = 0,
    least_soh: float = 0.0,
) -> Judged:
    """Hands a cell's windows to the kernel, cycle by cycle, by way of its packed state."""
    state, size = b"", 0
    rows, given, holds, reasons = [], [], [], Counter[str]()
    kind = (chosen or health.default()).of(cell.known.chemistry)
    for number, (whole, cycle) in enumerate(handed(cell, windows, 0, check_up_every)):
        kept = health.Cell.from_bytes(state)
        said = kept.update(cycle, cell.known, chosen)
        state = kept.to_bytes()
        size = max(size, len(state))
        if number < FIRST or not whole.soh >= least_soh or cycle.capacity_ah is not None:
            continue
        if said.reason is not None:
            reasons[said.reason] += 1
        rows.append(
            [
                whole.soh,
                *(np.nan if v is None else v for v in (said.soh, said.soh_low, said.soh_high)),
            ]
        )
        given.append(cycle)
        holds.append(kept.soh(kind)[0])
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    return Judged(
        cell.name, {**cell.traits, **windows.traits}, *table.T, _ahead(given, table[:, 0]),
        np.array(holds, dtype=np.float64),
        reasons,
        size,
    )  # fmt: skip


def _ahead(cycles: list[CycleSegments], true: np.ndarray) -> np.ndarray:
    """State of health by the charge between two voltages, fitted over all of the cell's life."""
    best = np.full(len(true), np.nan)
    for direction in (1.0, -1.0):
        own = [next((s for s in c.segments if s.direction == direction), None) for c in cycles]
        ends = np.array(
            [(np.nan, np.nan) if s is None else (s.voltage_v.min(), s.voltage_v.max()) for s in own]
        ).reshape(-1, 2)
        if np.isnan(ends).all():
            continue
        low, high = np.nanquantile(ends[:, 0], 0.9), np.nanquantile(ends[:, 1], 0.1)
        if high - low < 0.005:
            continue
        charge = np.full(len(true), np.nan)
        for number, segment in enumerate(own):
            if segment is None or ends[number, 0] > low or ends[number, 1] < high:
                continue
            volts = np.maximum.accumulate(direction * segment.voltage_v)
            at = np.interp(sorted((direction * low, direction * high)), volts, segment.ah)
            charge[number] = at[1] - at[0]
        there = np.isfinite(charge)
        if there.sum() < 10:
            continue
        fitted = np.full(len(true), np.nan)
        fitted[there] = np.polyval(np.polyfit(charge[there], true[there], 2), charge[there])
        if np.isnan(best).all() or _rmse(fitted - true) < _rmse(best - true):
            best = fitted
    return best


def _rmse(off: np.ndarray) -> float:
    off = off[np.isfinite(off)]
    return float(np.sqrt(np.mean(off**2))) if len(off) else float("nan")


def line(name: str, cells: Iterable[Judged]) -> str:
    """How a group of cells did."""
    group = list(cells)
    true, found, low, high, ahead, held = (
        np.concatenate([getattr(one, part) for one in group])
        for part in ("true", "found", "low", "high", "ahead", "held")
    )
    there = np.isfinite(found)
    off = (found - true)[there]
    if not len(off):
        return f"{name:<34} {len(group):>5} {len(true):>7} {0:>7.0%}"
    inside = ((true >= low) & (true <= high))[there]
    half = np.median((high - found)[there])
    return (
        f"{name:<34} {len(group):>5} {len(true):>7} {there.mean():>7.0%} {_rmse(off):>7.2%} "
        f"{np.median(np.abs(off)):>7.2%} {off.mean():>+7.2%} {inside.mean():>7.0%} {half:>7.2%} "
        f"{_rmse(held - true):>7.2%} {_rmse(ahead - true):>7.2%}"
    )


HEAD = (
    f"{'':<34} {'cells':>5} {'cycles':>7} {'said':>7} {'RMSE':>7} {'median':>7} {'bias':>7} "
    f"{'in 90 %':>7} {'± half':>7} {'unsaid':>7} {'ahead':>7}"
)


def tables(cells: list[Judged], traits: Iterable[str]) -> Iterator[str]:
    """A line for each value of a trait, and for all."""
    yield HEAD
    for trait in traits:
        groups: dict[str, list[Judged]] = defaultdict(list)
        for one in cells:
            groups[one.traits[trait]].append(one)
        yield trait
        for value in sorted(groups):
            yield line(f"  {value}", groups[value])
    yield line("all", cells)


def run(
    seed: int, numbers: Iterable[int], chosen: Coefficients | None = None, cycles: int | None = None
) -> list[Judged]:
    """Simulates and judges the cells with these numbers."""
    out = []
    for number in numbers:
        windows = Windows.draw(random.Random(f"windows/{seed}/{number}"))
        out.append(judge(simulated(seed, number, cycles), windows, chosen))
    return out


def calibrated(cells: list[Judged], plain: Coefficients) -> dict[str, float]:
    """The factor that lets 90 % of the truth lie within the intervals; every cell counts alike."""
    out = {}
    for name, beginning in (("full", "whole cycles"), ("window", "windows only")):
        sizes, weights = [], []
        for one in cells:
            there = np.isfinite(one.found)
            if one.traits["beginning"] != beginning or not there.any():
                continue
            spread = (one.high - one.found)[there] / plain.intervals[name].factor
            sizes.append(np.abs(one.found - one.true)[there] / spread)
            weights.append(np.full(there.sum(), 1.0 / there.sum()))
        size, weight = np.concatenate(sizes), np.concatenate(weights)
        order = np.argsort(size)
        share = np.cumsum(weight[order]) / weight.sum()
        out[name] = float(size[order][np.searchsorted(share, 0.9)])
    return out


def fit(count: int) -> None:
    """Calibrates the intervals and writes them beside the kernel."""
    cells = run(CALIBRATION_SEED, range(count))
    factors = calibrated(cells, health.default())
    content = json.loads(_FILE.read_text("utf-8"))
    for name, factor in factors.items():
        content["calibration"][name]["factor"] = round(factor, 3)
    _FILE.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    print(f"calibrated on {count} cells of seed {CALIBRATION_SEED}: {factors}")


SETTINGS = (
    ("whole cycles first, then windows", WHOLE_CYCLES, 0),
    ("the same, a full discharge every 50", WHOLE_CYCLES, 50),
    ("windows only", 0, 0),
)


def real(folder: Path) -> Iterator[str]:
    """CALCE's cell by window width, place and direction, to 70 % of its capacity and to its end."""
    cell = calce(folder)
    alive = [number for number, cycle in enumerate(cell.cycles) if cycle.soh >= 0.7]
    cell = replace(cell, cycles=cell.cycles[: alive[-1] + 1])
    for name, whole, every in SETTINGS:
        judged = []
        for width in (0.1, 0.2, 0.3):
            for place in (0.0, 0.5, 1.0):
                for directions in ("charge", "discharge", "both"):
                    windows = Windows(width, place, 0.0, whole, directions)
                    judged.append(judge(cell, windows, check_up_every=every, least_soh=0.7))
        yield f"\nCS2_35 to 70 % of its initial capacity: {name}"
        yield from tables(judged, ("window width", "window place", "direction"))
        reasons = sum((one.reasons for one in judged), Counter[str]())
        yield f"nothing said: {dict(reasons)}"


TRAITS = (
    "chemistry", "protocol", "beginning", "window width", "window place", "direction", "noise",
    "temperature", "sampling",
)  # fmt: skip


def main() -> int:
    """Prints the tables; 1 where simulated cells miss what is wanted."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.health", description=__doc__)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fit", type=int, metavar="CELLS", help="calibrate on so many cells")
    parser.add_argument("--calce", type=Path, help="folder with CS2_35.zip")
    parser.add_argument("--only_calce", action="store_true")
    flags = parser.parse_args()
    if flags.fit:
        fit(flags.fit)
        return 0
    missed = []
    if not flags.only_calce:
        started = time.perf_counter()
        judged = run(flags.seed, range(flags.cells))
        whole = [one for one in judged if one.traits["beginning"] == "whole cycles"]
        print(f"{len(judged)} simulated cells in {time.perf_counter() - started:.0f} s, "
              f"{max(one.state_bytes for one in judged)} bytes of state at most")  # fmt: skip
        print("\n".join(tables(judged, TRAITS)))
        print("\nof these, those whose first cycles were whole")
        print("\n".join(tables(whole, TRAITS)))
        reasons = sum((one.reasons for one in judged), Counter[str]())
        print(f"nothing said: {dict(reasons)}")
        missed = failed(whole, "whole cycles first") + failed(judged, "all")
    folder = flags.calce or Path(os.environ.get("CALCE_DIR") or _CALCE)
    if (folder / "CS2_35.zip").is_file():
        for text in real(folder):
            print(text, flush=True)
    else:
        print(f"no CALCE data in {folder}; give --calce=FOLDER with CS2_35.zip")
    print("\n" + "\n".join(missed or ["simulated cells: all within the limits"]))
    return 1 if missed else 0


def failed(cells: list[Judged], name: str) -> list[str]:
    """What is not as wanted, a line each."""
    true, found, low, high = (
        np.concatenate([getattr(one, part) for one in cells])
        for part in ("true", "found", "low", "high")
    )
    there = np.isfinite(found)
    out = []
    error = _rmse((found - true)[there])
    if not error <= WANTED["rmse"]:
        out.append(f"{name}: RMSE {error:.2%}, wanted {WANTED['rmse']:.1%}")
    inside = float(((true >= low) & (true <= high))[there].mean())
    least, most = WANTED["coverage"]
    if not least <= inside <= most:
        out.append(
            f"{name}: {inside:.1%} within the 90 % interval, wanted {least:.0%} to {most:.0%}"
        )
    return out


if __name__ == "__main__":
    sys.exit(main())
