"""What is true of a simulated fleet's cells: kinds of cycles, charges, capacities, resistances.

`of` gives four tables (see `CELLS`, `CYCLES`, `SWINGS`, `PEAKS`) that follow from the
configuration alone; nothing is measured from readings. Columns:

cells: `protocol`, `chemistry`, limits; `knee_onset_cycle` and `knee_point_cycle` where the capacity
curve bends (null: not within the simulated cycles; a cell of the default's electrodes has no onset, because its bend
is gradual); `end_of_life_nominal_cycle`, `end_of_life_initial_cycle`: the first cycle whose
capacity at 1C and mean temperature, without scatter, is below 80 % of nominal and of its first
cycle's; null where no simulated cycle is.

cycles, one row per cycle index: `kind`, what the protocol made it (full, check_up, formation, drive,
pulse; several charges and discharges in one; discharge_partial, which ends above the lower limit;
charge_partial, which ends at it and began below the upper one); `charge_ah` and `discharge_ah`, all that was moved;
`net_charge_ah` and `net_discharge_ah`, the sums of the swings' net charge; `charge_is_full` and
`discharge_is_full`, whether every such swing goes from limit to limit; `is_valid`, whether
`capacity_ah` can be measured as the net charge of one discharge; `capacity_ah`, from the upper
limit (held to C/20) to the lower one at this cycle's discharge rate, temperature and age, null
for drive profiles and pulse tests, which have no one rate; `depth`, net discharge as a share of
it; `throughput_ah` and `equivalent_full_cycles` since the first cycle; `temperature_mean_c` by
time; `resistance_10s_ohm`, `resistance_30s_ohm`: R0 + R1 (1 - exp(-t / tau)), the open-circuit
voltage's fall not in it.

swings: `net_ah` between two turning points of the protocol (not those of single pulses or of
regeneration), `is_full` as above.

peaks: those of dQ/dV of the noise-free curve of each step at constant current, its first two minutes
left out (the answer to the change of current is no part of the curve); `step_run` counts the cycle's
steps from 1. None of drive profiles and pulse tests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.sources.simulation import (
    protocols,
    step_segments,
    surroundings,
    truth_electrodes,
    truth_peaks,
)
from pipeline.sources.simulation.arrays import Floats, Ints
from pipeline.sources.simulation.cell_model import CYCLES_PER_TEST
from pipeline.sources.simulation.config import FleetConfig
from pipeline.sources.simulation.fleet import Fleet
from pipeline.sources.simulation.step_ageing import Now
from pipeline.sources.simulation.step_cell import CHARGE, DISCHARGE
from pipeline.sources.simulation.step_life import Life, Lived
from pipeline.sources.simulation.step_segments import CURRENT
from schemas.forms import UTC_MICROSECONDS

_END: Final = 0.8  # of capacity: end of life
_VALID: Final = ("full", "check_up", "formation")
_AT_ONCE: Final = 10
_GRID_MS: Final = 60_000  # at which the temperature is averaged
_ANSWER_MS: Final = 120_000.0  # of the voltage to a change of current

CELLS: Final = pa.schema(
    [
        ("equipment_id", pa.string()),
        ("protocol", pa.string()),
        ("chemistry", pa.string()),
        ("nominal_ah", pa.float64()),
        ("v_min_v", pa.float64()),
        ("v_max_v", pa.float64()),
        ("cycles", pa.int64()),
        ("knee_onset_cycle", pa.float64()),
        ("knee_point_cycle", pa.float64()),
        ("end_of_life_nominal_cycle", pa.int64()),
        ("end_of_life_initial_cycle", pa.int64()),
    ]
)
CYCLES: Final = pa.schema(
    [
        ("equipment_id", pa.string()),
        ("cycle_number", pa.int64()),
        ("test_id", pa.string()),
        ("cycle_index", pa.int64()),
        ("begins_at", UTC_MICROSECONDS),
        ("ends_at", UTC_MICROSECONDS),
        ("kind", pa.string()),
        ("swings", pa.int64()),
        ("charge_ah", pa.float64()),
        ("discharge_ah", pa.float64()),
        ("net_charge_ah", pa.float64()),
        ("net_discharge_ah", pa.float64()),
        ("charge_is_full", pa.bool_()),
        ("discharge_is_full", pa.bool_()),
        ("is_valid", pa.bool_()),
        ("capacity_ah", pa.float64()),
        ("depth", pa.float64()),
        ("charge_rate_a", pa.float64()),
        ("discharge_rate_a", pa.float64()),
        ("throughput_ah", pa.float64()),
        ("equivalent_full_cycles", pa.float64()),
        ("temperature_mean_c", pa.float64()),
        ("resistance_10s_ohm", pa.float64()),
        ("resistance_30s_ohm", pa.float64()),
    ]
)
SWINGS: Final = pa.schema(
    [
        ("equipment_id", pa.string()),
        ("swing_number", pa.int64()),
        ("cycle_number", pa.int64()),
        ("direction", pa.string()),
        ("begins_at", UTC_MICROSECONDS),
        ("ends_at", UTC_MICROSECONDS),
        ("net_ah", pa.float64()),
        ("is_full", pa.bool_()),
        ("rate_a", pa.float64()),
    ]
)
PEAKS: Final = pa.schema(
    [
        ("equipment_id", pa.string()),
        ("cycle_number", pa.int64()),
        ("step_run", pa.int64()),
        ("direction", pa.string()),
        ("current_a", pa.float64()),
        ("voltage_v", pa.float64()),
        ("dq_dv_ah_per_v", pa.float64()),
        ("prominence_ah_per_v", pa.float64()),
        ("is_main", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class Truth:
    """The four tables; see the module."""

    cells: pa.Table
    cycles: pa.Table
    swings: pa.Table
    peaks: pa.Table


@dataclass(frozen=True)
class Capacities:
    """The course of one cell's life, (k,) at cycle indexes from 0, without scatter.

    `capacity_ah` at 1C from limit to limit, `resistance_ohm` 30 s into a discharge.
    """

    cycle: Ints
    capacity_ah: Floats
    resistance_ohm: Floats


Rows = dict[str, list[dict[str, Any]]]


def of(config: FleetConfig) -> Truth:
    """The truth of a fleet's cells; machines have none.

    Raises:
        ConfigError: `readings` are given, so that nothing says where a cell's cycles end.
    """
    if config.readings is not None:
        raise ConfigError(
            "--source=simulator: parameter 'readings' cuts cycles short, which has no truth; give "
            "'cycles' instead, for example simulator:?cycles=20"
        )
    rows: Rows = {"cells": [], "cycles": [], "swings": [], "peaks": []}
    fleet = Fleet(config)
    for number, name in enumerate(fleet.cell_names()):
        if config.in_steps:
            _steps(config, Life(config, number, fleet.keys[number : number + 1]), name, rows)
        else:
            truth_electrodes.add(config, number, fleet.keys, name, rows)
    schemas = {"cells": CELLS, "cycles": CYCLES, "swings": SWINGS, "peaks": PEAKS}
    return Truth(**{k: pa.Table.from_pylist(rows[k], schema=s) for k, s in schemas.items()})


def capacities(config: FleetConfig, number: int, points: int = 400) -> Capacities:
    """Capacities of one cell at about so many of its cycles, without simulating what it does.

    At the mean temperature: seasons and cold weeks are left out.
    """
    fleet = Fleet(config)
    every = max(1, config.cycles // points)
    cycle = np.arange(0, config.cycles, every)
    if not config.in_steps:
        return Capacities(cycle, *truth_electrodes.capacities(config, number, fleet.keys, cycle))
    life = Life(config, number, fleet.keys[number : number + 1])
    nows = [life.ageing.at(k, config.temperature, scatter=False) for k in cycle.tolist()]
    amps = protocols.rates_c(life.protocol, "full")[1] * config.nominal_ah
    answer = 1.0 - math.exp(-30.0 / life.kind.tau_s)
    return Capacities(
        cycle,
        np.array([_capacity(life, now, amps) for now in nows]),
        np.array([now.r0 + now.r1 * answer for now in nows]),
    )


def _steps(config: FleetConfig, life: Life, name: str, rows: Rows) -> None:
    """Adds a cell in steps."""
    nominal = config.nominal_ah
    normal_c = protocols.rates_c(life.protocol, "full")[1]

    def capacity(cycle: int) -> float:
        at = life.ageing.at(cycle, config.temperature, scatter=False)
        return _capacity(life, at, normal_c * nominal)

    series = [capacity(cycle) for cycle in range(config.cycles)]

    def seen(bend: float | None) -> float | None:
        return bend if bend is not None and bend < config.cycles else None

    rows["cells"].append(
        {
            "equipment_id": name,
            "protocol": life.protocol,
            "chemistry": config.chemistry,
            "nominal_ah": nominal,
            "v_min_v": life.kind.v_min,
            "v_max_v": life.kind.v_max,
            "cycles": config.cycles,
            "knee_onset_cycle": seen(life.ageing.onset),
            "knee_point_cycle": seen(life.ageing.point),
            "end_of_life_nominal_cycle": first_below(series, _END * nominal),
            "end_of_life_initial_cycle": first_below(series, _END * series[0]),
        }
    )
    through = 0.0
    while life.done < config.cycles:
        lived = life.run(min(_AT_ONCE, config.cycles - life.done))
        warmth = _temperatures(config, life, lived)
        for swing in lived.swings:
            rows["swings"].append(
                {
                    "equipment_id": name,
                    "swing_number": swing.number + 1,
                    "cycle_number": swing.cycle + 1,
                    "direction": swing.direction,
                    "begins_at": 1000 * (life.begins_ms + swing.begins_ms),
                    "ends_at": 1000 * (life.begins_ms + swing.ends_ms),
                    "net_ah": swing.net_ah,
                    "is_full": swing.is_full,
                    "rate_a": swing.rate_a,
                }
            )
        for place, row in enumerate(_cycles(config, life, lived)):
            through += row["charge_ah"] + row["discharge_ah"]
            rows["cycles"].append(
                row
                | {
                    "equipment_id": name,
                    "test_id": f"{name}_t{(lived.first + place) // CYCLES_PER_TEST + 1:02d}",
                    "throughput_ah": through,
                    "equivalent_full_cycles": through / (2.0 * nominal),
                    "temperature_mean_c": float(warmth[place]),
                }
            )
        rows["peaks"] += [{"equipment_id": name} | row for row in _peaks(life, lived)]


def first_below(series: list[float], limit: float) -> int | None:
    """Number of the first cycle whose capacity is below the limit, from 1."""
    return next((place + 1 for place, value in enumerate(series) if value < limit), None)


def _capacity(life: Life, now: Now, amps: float) -> float:
    """Ah from the end of a full charge to the lower limit at a discharge current."""
    drop = now.r0 + now.r1
    cutoff = protocols.CUTOFF_C * life.config.nominal_ah
    full = life.curve.at_voltage(life.kind.v_max - cutoff * drop)
    empty = life.curve.at_voltage(life.kind.v_min + amps * drop)
    return (full - empty) * now.capacity_ah


def _cycles(config: FleetConfig, life: Life, lived: Lived) -> Iterator[dict[str, Any]]:
    segments = lived.segments
    moved = np.stack(
        [np.append(segments[name], _end(segments, name)) for name in ("charge_ah", "discharge_ah")]
    )
    for place, kind in enumerate(lived.kinds):
        cycle = lived.first + place
        own = np.flatnonzero(segments["cycle"] == cycle)
        first, last = int(own[0]), int(own[-1])
        swings = [swing for swing in lived.swings if swing.cycle == cycle]
        charges = [swing for swing in swings if swing.direction == CHARGE]
        discharges = [swing for swing in swings if swing.direction == DISCHARGE]
        charge_c, discharge_c = protocols.rates_c(life.protocol, kind)
        now = lived.now[place]
        net = math.fsum(swing.net_ah for swing in discharges)
        full = all(swing.is_full for swing in discharges)
        one_rate = kind not in ("drive", "pulse")
        capacity = _capacity(life, now, discharge_c * config.nominal_ah) if one_rate else None
        deep = capacity or _capacity(life, now, protocols.DISCHARGE_C * config.nominal_ah)
        yield {
            "cycle_number": cycle + 1,
            "cycle_index": cycle % CYCLES_PER_TEST + 1,
            "begins_at": 1000 * (life.begins_ms + int(segments["start_ms"][first])),
            "ends_at": 1000
            * (
                life.begins_ms
                + int(segments["start_ms"][last])
                + int(segments["duration_ms"][last])
            ),
            "kind": kind,
            "swings": len(swings),
            "charge_ah": float(moved[0, last + 1] - moved[0, first]),
            "discharge_ah": float(moved[1, last + 1] - moved[1, first]),
            "net_charge_ah": math.fsum(swing.net_ah for swing in charges),
            "net_discharge_ah": net,
            "charge_is_full": all(swing.is_full for swing in charges),
            "discharge_is_full": full,
            "is_valid": full and kind in _VALID,
            "capacity_ah": capacity,
            "depth": net / len(discharges) / deep,
            "charge_rate_a": charge_c * config.nominal_ah,
            "discharge_rate_a": discharge_c * config.nominal_ah,
            "resistance_10s_ohm": now.r0 + now.r1 * (1.0 - math.exp(-10.0 / life.kind.tau_s)),
            "resistance_30s_ohm": now.r0 + now.r1 * (1.0 - math.exp(-30.0 / life.kind.tau_s)),
        }


def _end(segments: step_segments.Segments, name: str) -> float:
    """A counter at the end of the last segment, which is a rest."""
    return float(segments[name][-1])


def _temperatures(config: FleetConfig, life: Life, lived: Lived) -> Floats:
    """Mean temperature of the cell in each cycle, weighted by time, (k,)."""
    segments = lived.segments
    duration = segments["duration_ms"]
    count = np.ceil(duration / _GRID_MS).astype(np.int64)
    which = np.repeat(np.arange(segments.size), count)
    ordinal = np.arange(which.size) - np.repeat(np.cumsum(count) - count, count)
    width = duration / count
    after = ((ordinal + 0.5) * width[which]).astype(np.int64)
    at = life.begins_ms + segments["start_ms"][which] + after
    heat = step_segments.points(life.kind, life.curve, segments, which, after).heat_k
    warm = heat + surroundings.ambient_c(config, at.astype(np.float64))
    place = segments["cycle"][which] - lived.first
    weight = np.bincount(place, width[which])
    mean: Floats = np.bincount(place, warm * width[which]) / weight
    return mean


def _peaks(life: Life, lived: Lived) -> Iterator[dict[str, Any]]:
    """Peaks of every step at one constant current; those of drives and pulses are none."""
    segments = lived.segments
    kinds = np.array(lived.kinds)[segments["cycle"] - lived.first]
    steady = (segments["kind"] == CURRENT) & (kinds != "drive") & (kinds != "pulse")
    for segment in np.flatnonzero(steady).tolist():
        duration = float(segments["duration_ms"][segment])
        if duration <= 2.0 * _ANSWER_MS:
            continue
        after: Ints = np.unique(
            np.linspace(_ANSWER_MS, duration, truth_peaks.POINTS).astype(np.int64)
        )
        which = np.full(after.size, segment)
        curve = step_segments.points(life.kind, life.curve, segments, which, after)
        current = float(segments["current_a"][segment])
        moved = (current / 3.6e6) * after.astype(np.float64)
        for peak in truth_peaks.peaks(curve.voltage_v, moved):
            yield {
                "cycle_number": int(segments["cycle"][segment]) + 1,
                "step_run": int(segments["run"][segment]) + 1,
                "direction": CHARGE if current > 0.0 else DISCHARGE,
                "current_a": current,
                "voltage_v": peak.voltage_v,
                "dq_dv_ah_per_v": peak.dq_dv_ah_per_v,
                "prominence_ah_per_v": peak.prominence_ah_per_v,
                "is_main": peak.is_main,
            }
