"""Choose when the segments of a cell in steps are read."""

from __future__ import annotations

from typing import Final

import numpy as np

from pipeline.sources.simulation import draws, step_segments
from pipeline.sources.simulation.arrays import Hashes, Ints
from pipeline.sources.simulation.chemistry import Chemistry, Curve
from pipeline.sources.simulation.config import FleetConfig
from pipeline.sources.simulation.step_cell import EARLY_S
from pipeline.sources.simulation.step_segments import VOLTAGE, Segments

_LEAST_MS: Final = 500  # between a reading and the one at its segment's end
_FINEST: Final = 20_000  # places at which a segment's voltage is looked at


def times(
    config: FleetConfig, kind: Chemistry, curve: Curve, segments: Segments, key: Hashes
) -> tuple[Ints, Ints]:
    """Segment and ms since its start of every reading, (n,) each, in order.

    Every segment is read at its end. In between `regular` reads at whole intervals, and after 1 s
    (steps of load also after 10 and 30 s); `irregular` after 0.2 to 1.8 intervals, drawn each
    time; `voltage` after 1 s, at every change by `voltage_step`, and after every interval.
    """
    if config.sampling == "irregular":
        which, after = _irregular(config, segments, key)
    else:
        which, after = _regular(config, segments)
    if config.sampling == "voltage":
        more, when = _by_voltage(config, kind, curve, segments)
        which, after = np.concatenate((which, more)), np.concatenate((after, when))
    duration = segments["duration_ms"]
    kept = (after > 0) & (after <= duration[which] - _LEAST_MS)
    every = np.arange(segments.size)
    which = np.concatenate((which[kept], every))
    after = np.concatenate((after[kept], duration))
    order = np.lexsort((after, which))
    which, after = which[order], after[order]
    fresh = np.ones(which.size, np.bool_)
    fresh[1:] = (which[1:] != which[:-1]) | (after[1:] != after[:-1])
    return which[fresh], after[fresh]


def _regular(config: FleetConfig, segments: Segments) -> tuple[Ints, Ints]:
    duration = segments["duration_ms"] / 1000.0
    count = np.floor(duration / config.interval).astype(np.int64)
    which = np.repeat(np.arange(segments.size), count)
    ordinal = np.arange(which.size) - np.repeat(np.cumsum(count) - count, count)
    after = np.rint((ordinal + 1) * (1000.0 * config.interval)).astype(np.int64)
    wholes, starts = [which], [after]
    wanted = EARLY_S if config.sampling == "regular" else EARLY_S[:1]
    for place, seconds in enumerate(s for s in wanted if s < config.interval):
        early = np.flatnonzero(segments["early"] > place)
        wholes.append(early)
        starts.append(np.full(early.size, round(1000.0 * seconds)))
    return np.concatenate(wholes), np.concatenate(starts)


def _irregular(config: FleetConfig, segments: Segments, key: Hashes) -> tuple[Ints, Ints]:
    most = np.ceil(segments["duration_ms"] / (200.0 * config.interval)).astype(np.int64) + 1
    which = np.repeat(np.arange(segments.size), most)
    starts = np.cumsum(most) - most
    ordinal = np.arange(which.size) - starts[which]
    # A segment is known by its start: so neither block nor batch changes a draw.
    dice = draws.mix(
        draws.mix(segments["start_ms"].astype(np.uint64) ^ key)[which]
        + draws.GOLDEN * ordinal.astype(np.uint64)
    )
    gaps = (0.2 + 1.6 * draws.uniform(dice, 4)) * (1000.0 * config.interval)
    total = np.cumsum(gaps)
    before = total[starts] - gaps[starts]
    return which, np.rint(total - before[which]).astype(np.int64)


def _by_voltage(
    config: FleetConfig, kind: Chemistry, curve: Curve, segments: Segments
) -> tuple[Ints, Ints]:
    duration = segments["duration_ms"]
    step = np.maximum(1000, duration // _FINEST)
    count = np.where(segments["kind"] == VOLTAGE, 0, duration // step)
    which = np.repeat(np.arange(segments.size), count)
    ordinal = np.arange(which.size) - np.repeat(np.cumsum(count) - count, count)
    after = (ordinal + 1) * step[which]
    volts = step_segments.points(kind, curve, segments, which, after).voltage_v
    stairs = np.floor(volts / (config.voltage_step / 1000.0))
    turned = np.zeros(which.size, np.bool_)
    turned[1:] = (stairs[1:] != stairs[:-1]) & (which[1:] == which[:-1])
    return which[turned], after[turned]
