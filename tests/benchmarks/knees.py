"""python -m tests.benchmarks.knees: how often the models report a knee that is none, or miss one.

Synthetic capacity curves of known truth are put into a DuckDB file as `battery_health`, and the
project's own compiled SQL (int_capacity_points to int_capacity_knee) runs on them. The thresholds
in dbt_project.yml were set with `--tuning`: other seeds, and other parameters for every series
(length, fade, noise, where the breaks are and how sharp).

How the debatable ones count: a curve that speeds up evenly (a parabola) has no knee, and neither
has a curve that is flat or rises at first and then falls evenly. A soft bend has an onset and a
point: the two breaks that fit it best without noise.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import duckdb
import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline import models

Floats: TypeAlias = npt.NDArray[np.float64]
MODELS = (
    "int_capacity_points",
    "int_capacity_breaks",
    "int_capacity_choice",
    "int_capacity_swing",
    "int_capacity_knee",
)
LIFE = 600  # cycles of a series, unless its kind or the tuning says otherwise
CHUNK = 500  # cells built at a time: the models' tables then stay small


@dataclass(frozen=True)
class Series:
    """A capacity curve and its truth.

    Attributes:
        cycles: cycle numbers of the reference cycles.
        capacity: their capacities, Ah.
        onset: cycle where the fade begins to speed up; None where there is no knee.
        point: cycle from which the fade is fastest; None where there is no knee.
    """

    cycles: Floats
    capacity: Floats
    onset: float | None = None
    point: float | None = None


class Draw:
    """Parts of a series; all sizes are shares of the first capacity, all times of the life."""

    def __init__(self, random: np.random.Generator, tuning: bool) -> None:
        self.random = random
        self.tuning = tuning
        self.cycles = np.arange(1.0, (int(random.integers(350, 1100)) if tuning else LIFE) + 1)
        self.start = float(random.uniform(0.8, 5.0)) if tuning else 2.0
        self.life = len(self.cycles)
        self.u = self.cycles / self.life

    def about(self, value: float, spread: float = 0.35) -> float:
        """The value itself; with tuning a value drawn around it."""
        return value * float(self.random.uniform(1 - spread, 1 + spread)) if self.tuning else value

    def line(self, loss: float = 0.06) -> Floats:
        return 1 - self.about(loss) * self.u

    def bend(self, at: float, loss: float) -> Floats:
        """Falls by `loss` in a whole life, from `at` on."""
        return -loss * np.maximum(self.u - at, 0.0)

    def noise(self, size: float) -> Floats:
        return self.random.normal(0.0, self.about(size), self.life)

    def drift(self, size: float) -> Floats:
        """Noise that hangs together: AR(1), rho 0.95."""
        rho = float(self.random.uniform(0.9, 0.97)) if self.tuning else 0.95
        steps = self.random.normal(0.0, self.about(size) * np.sqrt(1 - rho**2), self.life + 100)
        values = np.zeros(len(steps))
        for place in range(1, len(steps)):
            values[place] = rho * values[place - 1] + steps[place]
        return values[100:]

    def season(self, period: float) -> Floats:
        """1 % up and down with the temperature."""
        phase = float(self.random.uniform(0.0, 2 * np.pi))
        wave = np.sin(2 * np.pi * self.u / self.about(period, 0.15) + phase)
        return np.asarray(self.about(0.01) * wave)

    def recoveries(self) -> Floats:
        """After every 50 cycles a rest gives 1 % back for some cycles."""
        since = (self.cycles - 1) % round(self.about(50))
        return np.asarray(self.about(0.01) * np.exp(-since / self.about(10)))

    def series(
        self, shares: Floats, onset: float | None = None, point: float | None = None
    ) -> Series:
        """Of shares of the first capacity; onset and point as shares of the life."""
        if onset is None:
            return Series(self.cycles, self.start * shares)
        point = onset if point is None else point
        return Series(self.cycles, self.start * shares, onset * self.life, point * self.life)


Make: TypeAlias = Callable[[Draw], Series]


def _line(noise: float, loss: float = 0.06) -> Make:
    return lambda draw: draw.series(draw.line(loss) + draw.noise(noise))


def _drift(size: float) -> Make:
    return lambda draw: draw.series(draw.line() + draw.drift(size))


def _season(period: float) -> Make:
    return lambda draw: draw.series(draw.line() + draw.noise(0.001) + draw.season(period))


def _recoveries(draw: Draw) -> Series:
    return draw.series(draw.line() + draw.noise(0.001) + draw.recoveries())


def _rest(at: float) -> Make:
    def make(draw: Draw) -> Series:
        since = draw.u - draw.about(at, 0.2)
        back = draw.about(0.03) * np.exp(-np.maximum(since, 0.0) / draw.about(0.133))
        return draw.series(draw.line() + draw.noise(0.001) + np.where(since > 0, back, 0.0))

    return make


def _step(before_end: float) -> Make:
    def make(draw: Draw) -> Series:
        at = 1 - draw.about(before_end, 0.3)
        return draw.series(
            draw.line() + draw.noise(0.001) - np.where(draw.u > at, draw.about(0.02), 0.0)
        )

    return make


def _rise(length: float) -> Make:
    def make(draw: Draw) -> Series:
        rise = draw.about(0.02) * np.exp(-draw.u / draw.about(length))
        return draw.series(draw.line() + draw.noise(0.001) - rise)

    return make


def _flat_start(draw: Draw) -> Series:
    loss, length = draw.about(0.06), draw.about(0.1)
    fade = loss * (draw.u + length * np.exp(-draw.u / length))
    return draw.series(1 - fade + draw.noise(0.001))


def _root(draw: Draw) -> Series:
    return draw.series(1 - draw.about(0.184) * np.sqrt(draw.u) + draw.noise(0.001))


def _parabola(draw: Draw) -> Series:
    loss = draw.about(0.03)
    fade = loss * draw.u + loss * draw.about(1.5) * draw.u**2
    return draw.series(1 - fade + draw.noise(0.001))


def _slowing(draw: Draw) -> Series:
    fade = draw.about(0.15) * np.minimum(draw.u, 0.4) + 0.04 * draw.u
    return draw.series(1 - fade + draw.noise(0.002))


def _exponential(draw: Draw) -> Series:
    return draw.series(np.exp(-draw.u / draw.about(0.35)) + draw.noise(0.002))


def _short(cycles: int) -> Make:
    def make(draw: Draw) -> Series:
        kept = int(draw.about(cycles, 0.1))
        values = 1 - draw.about(1e-4) * draw.cycles + draw.noise(0.005)
        return Series(draw.cycles[:kept], draw.start * values[:kept])

    return make


def _bad_end(draw: Draw) -> Series:
    values = draw.line() + draw.noise(0.001)
    bad = int(draw.random.integers(1, 7)) if draw.tuning else 3
    values[-bad:] *= 1 - draw.about(0.3)
    return draw.series(values)


def _other_rate(draw: Draw) -> Series:
    values = draw.line() + draw.noise(0.001)
    values[-int(draw.about(25, 0.5)) :] -= draw.about(0.05)
    return draw.series(values)


def _dips(draw: Draw) -> Floats:
    """One cycle in thirty lower by a tenth to a half."""
    low = draw.random.random(draw.life) < draw.about(1 / 30)
    return np.where(low, -draw.random.uniform(0.1, 0.5, draw.life), 0.0)


def _dipping_line(draw: Draw) -> Series:
    return draw.series(draw.line() + draw.noise(0.002) + _dips(draw))


def _check_ups(draw: Draw) -> tuple[Floats, int]:
    """Check-ups every 25 cycles: their cycle numbers, and how many they are."""
    count = int(draw.random.integers(45, 80)) if draw.tuning else 48
    return np.arange(25.0, 25.0 * count + 1, 25.0), count


def _check_up_line(draw: Draw) -> Series:
    cycles, count = _check_ups(draw)
    values = 1 - draw.about(0.1) * cycles / cycles[-1]
    return Series(cycles, draw.start * (values + draw.noise(0.002)[:count]))


def _check_up_knee(draw: Draw) -> Series:
    cycles, count = _check_ups(draw)
    at, loss, u = draw.about(0.6, 0.15), draw.about(0.06), cycles / cycles[-1]
    values = 1 - loss * u - loss * draw.about(4) * np.maximum(u - at, 0) + draw.noise(0.002)[:count]
    return Series(cycles, draw.start * values, at * cycles[-1], at * cycles[-1])


def _knee(at: float, times: float, extra: Callable[[Draw], Floats] | None = None) -> Make:
    """One break after which the fade is `times` as fast."""

    def make(draw: Draw) -> Series:
        where = draw.about(at, 0.2) if at < 0.8 else 1 - draw.about(1 - at, 0.3)
        loss = draw.about(0.06, 0.2)
        values = 1 - loss * draw.u + draw.bend(where, loss * (draw.about(times, 0.15) - 1))
        return draw.series(values + (extra(draw) if extra else draw.noise(0.002)), where)

    return make


def _short_knee(draw: Draw) -> Series:
    kept, at = int(draw.about(100, 0.2)), draw.about(0.65, 0.15)
    u = draw.cycles[:kept] / kept
    values = 1 - 0.04 * u - draw.about(0.25) * np.maximum(u - at, 0) + draw.noise(0.002)[:kept]
    return Series(draw.cycles[:kept], draw.start * values, at * kept, at * kept)


def _root_knee(draw: Draw) -> Series:
    at = draw.about(0.667, 0.15)
    fade = draw.about(0.147) * np.sqrt(draw.u) - draw.bend(at, draw.about(0.3))
    return draw.series(1 - fade + draw.noise(0.002), at)


def _two(onset: float, point: float, times: tuple[float, float]) -> Make:
    def make(draw: Draw) -> Series:
        first = draw.about(onset, 0.15)
        second = first + draw.about(point - onset, 0.15)
        loss = draw.about(0.04, 0.2)
        between, after = (draw.about(ratio, 0.15) for ratio in times)
        values = 1 - loss * draw.u + draw.bend(first, loss * (between - 1))
        values += draw.bend(second, loss * (after - between))
        return draw.series(values + draw.noise(0.002), first, second)

    return make


def _saturated(draw: Draw) -> Series:
    """A knee, and an end near 8 % where nothing is left to fade."""
    at, floor, width = draw.about(0.5, 0.15), draw.about(0.08), 0.03
    falling = 1 - draw.about(0.06) * draw.u + draw.bend(at, draw.about(2.8, 0.1))
    values = floor + width * np.logaddexp(0.0, (falling - floor) / width)
    return draw.series(values + draw.noise(0.0015), at)


def _soft_half_width() -> float:
    """How far from its middle the two breaks lie that fit log(1 + exp(z)) best."""
    z = np.linspace(-30.0, 30.0, 6001)
    bend = np.logaddexp(0.0, z)
    places = np.linspace(0.5, 3.0, 501)
    lines = (np.maximum(z + c, 0) + np.maximum(z - c, 0) for c in places)
    return float(places[np.argmin([np.sum((bend - line / 2) ** 2) for line in lines])])


_SOFT = _soft_half_width()


def _soft(draw: Draw) -> Series:
    at, width = draw.about(0.6, 0.15), draw.about(0.025)
    bend = draw.about(0.5) * width * np.logaddexp(0.0, (draw.u - at) / width)
    values = 1 - draw.about(0.05) * draw.u - bend + draw.noise(0.002)
    return draw.series(values, at - _SOFT * width, at + _SOFT * width)


def _late(cycles: int) -> Make:
    return _knee(1 - cycles / LIFE, 10)


KINDS: Mapping[str, Make] = {
    "linear, noise 0.1 %": _line(0.001),
    "linear, noise 0.5 %": _line(0.005),
    "linear, noise 2 %": _line(0.02),
    "slow (1 % a life), noise 0.5 %": _line(0.005, 0.01),
    "flat, noise 0.5 %": _line(0.005, 0.0),
    "drift noise 0.5 %": _drift(0.005),
    "drift noise 1 %": _drift(0.01),
    "seasons 1 %, two a life": _season(0.5),
    "seasons 1 %, three a life": _season(0.33),
    "recovery 1 % every 50 cycles": _recoveries,
    "one long rest at 2/3": _rest(0.667),
    "one long rest at 1/6": _rest(0.167),
    "step down 2 % at 1/2": _step(0.5),
    "step down 2 % at 95 %": _step(0.05),
    "rise over 60, then linear": _rise(0.0417),
    "rise over 150, then linear": _rise(0.1),
    "flat start, then linear": _flat_start,
    "square root": _root,
    "gently accelerating": _parabola,
    "fade slows down": _slowing,
    "exponential fade to nothing": _exponential,
    "short, 60 cycles": _short(60),
    "short, 45 cycles": _short(45),
    "last 3 cycles bad": _bad_end,
    "last 25 at a higher rate": _other_rate,
    "linear, single low cycles": _dipping_line,
    "linear, check-ups every 25": _check_up_line,
    "knee 4x at 2/3": _knee(0.667, 4),
    "knee 2x at 2/3": _knee(0.667, 2),
    "knee 4x at 1/3": _knee(0.333, 4),
    "knee 4x at 85 %": _knee(0.85, 4),
    "knee 10x 20 cycles ago": _late(20),
    "knee 10x 10 cycles ago": _late(10),
    "knee 4x, noise 1 %": _knee(0.667, 4, lambda draw: draw.noise(0.01)),
    "knee 4x, drift noise 0.5 %": _knee(0.667, 4, lambda draw: draw.drift(0.005)),
    "knee 4x, recoveries": _knee(0.667, 4, lambda draw: draw.noise(0.001) + draw.recoveries()),
    "knee 4x, single low cycles": _knee(0.667, 4, lambda draw: draw.noise(0.002) + _dips(draw)),
    "knee 8x, seasons 1 %": _knee(0.667, 8, lambda draw: draw.noise(0.002) + draw.season(0.5)),
    "rise, then knee 4x": _knee(
        0.667,
        4,
        lambda draw: draw.noise(0.002) - draw.about(0.02) * np.exp(-draw.u / draw.about(0.1, 0.2)),
    ),
    "square root, then knee 4x": _root_knee,
    "knee, saturated end": _saturated,
    "short, 100 cycles, knee": _short_knee,
    "knee 5x, check-ups every 25": _check_up_knee,
    "soft knee": _soft,
    "two breaks, 3x and 10x": _two(0.5, 0.75, (3, 10)),
    "two breaks, 2x and 6x": _two(0.5, 0.8, (2, 6)),
    "two breaks, 4x and 12x, close": _two(0.6, 0.75, (4, 12)),
}


def series(kind: str, number: int, seed: int, tuning: bool = False) -> Series:
    """The `number`-th series of a kind; the same for the same arguments."""
    place = list(KINDS).index(kind)
    random = np.random.default_rng([int(tuning), seed, place, number])
    return KINDS[kind](Draw(random, tuning))


class Judge:
    """Runs the models' compiled SQL on series.

    Args:
        folder: where the DuckDB file and what dbt compiles go.

    Raises:
        RuntimeError: dbt could not build the models.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "knees.duckdb"
        self._put([series("linear, noise 0.1 %", 0, 0)])
        kept = os.environ.get("DBT_TARGET_PATH")
        os.environ["DBT_TARGET_PATH"] = str(folder / "target")
        try:
            success, _ = models.build(f"duckdb:{self._path}", " ".join(MODELS), data_tests=False)
        finally:
            if kept is None:
                del os.environ["DBT_TARGET_PATH"]
            else:
                os.environ["DBT_TARGET_PATH"] = kept
        if not success:
            raise RuntimeError("dbt did not build the models of the knee")
        self._queries = {
            name: next((folder / "target" / "compiled").rglob(f"{name}.sql")).read_text("utf-8")
            for name in MODELS
        }

    def _put(self, cells: list[Series]) -> None:
        rows = pd.DataFrame(
            {
                "equipment_id": np.repeat(np.arange(len(cells)), [len(c.cycles) for c in cells]),
                "cycle_number": np.concatenate([cell.cycles for cell in cells]),
                "capacity_ah": np.concatenate([cell.capacity for cell in cells]),
            }
        )
        with duckdb.connect(str(self._path)) as database:
            database.execute("set TimeZone = 'UTC'")
            database.register("rows", rows)
            database.execute(
                """create or replace table battery_health as select
                    cast(equipment_id as varchar) as equipment_id,
                    cast(cycle_number as bigint) as cycle_number,
                    timestamptz '2024-01-01 00:00:00+00' + to_hours(4 * cycle_number::int)
                        as started_at,
                    capacity_ah, true as is_reference
                from rows"""
            )

    def knees(self, cells: list[Series]) -> pd.DataFrame:
        """int_capacity_knee of the series, in their order."""
        self._put(cells)
        with duckdb.connect(str(self._path)) as database:
            database.execute("set TimeZone = 'UTC'")
            for name, query in self._queries.items():
                database.execute(f"create or replace table {name} as {query}")
            found: pd.DataFrame = database.sql(
                "select * from int_capacity_knee order by cast(equipment_id as bigint)"
            ).df()
        assert len(found) == len(cells)
        return found


@dataclass(frozen=True)
class Rates:
    """What was found in the series of a kind.

    Attributes:
        has_knee: whether the kind has one.
        series: how many.
        found: share with a knee.
        two: share with an onset apart from the point.
        onset: errors of the onsets found, shares of the record.
        point: errors of the points found.
        onset_inside: share of the onsets found whose interval holds the true one.
        point_inside: the same of the points.
        reasons: why there was none, and how often.
    """

    has_knee: bool
    series: int
    found: float
    two: float
    onset: Floats
    point: Floats
    onset_inside: float
    point_inside: float
    reasons: Counter[str]


def rates(judge: Judge, kind: str, number: int, seed: int, tuning: bool = False) -> Rates:
    """Judges `number` series of a kind."""
    cells = [series(kind, place, seed, tuning) for place in range(number)]
    parts = [judge.knees(cells[at : at + CHUNK]) for at in range(0, number, CHUNK)]
    knees = pd.concat(parts, ignore_index=True)
    is_found = knees["knee_cycle"].notna().to_numpy()
    reasons = Counter(str(reason) for reason in knees["knee_reason"].dropna())
    two = float((is_found & (knees["knee_cycle"] != knees["knee_onset_cycle"])).mean())
    has_knee = cells[0].onset is not None
    if not has_knee:
        empty = np.empty(0)
        return Rates(False, number, float(is_found.mean()), two, empty, empty, 0.0, 0.0, reasons)
    errors, inside = {}, {}
    lengths = np.array([cell.cycles[-1] for cell in cells])[is_found]
    for what, truth, column in (
        ("onset", [cell.onset for cell in cells], "knee_onset"),
        ("point", [cell.point for cell in cells], "knee"),
    ):
        true = np.array(truth, dtype=float)[is_found]
        some = knees[is_found]
        errors[what] = np.abs(some[f"{column}_cycle"].to_numpy(float) - true) / lengths
        low, high = (some[f"{column}_{end}_cycle"].to_numpy(float) for end in ("low", "high"))
        inside[what] = float(((low <= true) & (true <= high)).mean()) if len(true) else 0.0
    return Rates(
        True,
        number,
        float(is_found.mean()),
        two,
        errors["onset"],
        errors["point"],
        inside["onset"],
        inside["point"],
        reasons,
    )


def _lines(kind: str, rate: Rates) -> Iterator[str]:
    if not rate.has_knee:
        yield f"{kind:32} false knees {rate.found:6.1%}"
    elif not len(rate.onset):
        yield f"{kind:32} missed {1 - rate.found:6.1%}"
    else:
        on, at = (np.quantile(errors, (0.5, 0.9)) for errors in (rate.onset, rate.point))
        yield (
            f"{kind:32} missed {1 - rate.found:6.1%}; error of onset {on[0]:.1%} (90 %: "
            f"{on[1]:.1%}), of point {at[0]:.1%} ({at[1]:.1%}) of life; in the interval "
            f"{rate.onset_inside:.0%}, {rate.point_inside:.0%}; two breaks {rate.two:.0%}"
        )
    if rate.reasons and (rate.has_knee or rate.found < 1):
        most = "; ".join(f"{count} {reason}" for reason, count in rate.reasons.most_common(3))
        yield f"{'':32}   none: {most}"


def main() -> None:
    """Prints the rates."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.knees",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--series", type=int, default=1_000, help="of each kind")
    parser.add_argument("--seed", type=int, default=20_000)
    parser.add_argument("--tuning", action="store_true", help="the series of the thresholds")
    parser.add_argument("--only", default="", help="kinds whose name has this in it")
    flags = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        judge = Judge(folder)
        began, cells = time.perf_counter(), 0
        for kind in KINDS:
            if flags.only not in kind:
                continue
            rate = rates(judge, kind, flags.series, flags.seed, flags.tuning)
            cells += flags.series
            for line in _lines(kind, rate):
                print(line, flush=True)
        seconds = time.perf_counter() - began
        print(f"{cells:,} series in {seconds:,.0f} s, {1e3 * seconds / cells:.0f} ms each")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
