"""What is kept of a cell, and its state of health from one cycle to the next."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from transforms.health import coefficients as plain
from transforms.health.coefficients import Chemistry, Coefficients, Filter
from transforms.health.electrodes import F64
from transforms.health.fit import (
    BIAS,
    COLD,
    FADE,
    RESISTANCE,
    SCALE,
    SIZE,
    SLIDE,
    Curve,
    Found,
    Points,
    Warmth,
    fit,
    noise_of,
    thinned,
)
from transforms.health.reference import GRID, PACKED, POINTS, STEP, Reference, graphite_at
from transforms.health.segments import Segment

VERSION: Final = 1
MOST_REFERENCES: Final = 4

_HEAD: Final = struct.Struct("<BBHH9d")
_FILTER: Final = SIZE + SIZE * SIZE
MOST_BYTES: Final = _HEAD.size + 8 * _FILTER + MOST_REFERENCES * PACKED

_EARLY: Final = 6  # cycles whose segments make the reference
_EARLY_PIECES: Final = 12  # cycles whose pieces may be added where the reference has gaps
_CAPACITIES: Final = 3  # full discharges that make the initial capacity
_MOST_SEGMENTS: Final = 4
_SAME_RATE: Final = 0.15
_MOST_RATE: Final = 2.0  # factor between a segment's rate and its reference's
_MOST_K: Final = 25.0  # K between the cycle and the reference
_ROOM_C: Final = 25.0  # below it a cell can use less
_MOST_MISFIT_V: Final = 0.03
_MOST_MISFIT_PART_V: Final = 0.006  # where the reference has gaps
_FULL_SD: Final = 0.003  # of a capacity that was measured from limit to limit
_RATE_SD: Final = 0.25  # share by which resistance is uncertain where the rate is another
_LEAST_RISE: Final = 6.0  # of a segment's voltage, in its noise

NO_SEGMENT: Final = "no stretch of constant current"
NO_OVERLAP: Final = "no overlap with the reference"
FLAT: Final = "plateau too flat"
RATE: Final = "rate too different from the reference"
COLDER: Final = "temperature too different from the reference"
NOISE: Final = "noise or misfit too large"
_CLOSELY: Final = 10
_RARELY: Final = 5
NO_CURVE: Final = "no reference yet"
LITTLE: Final = "window says too little"
UNSURE: Final = "no full discharge for too long"
_FLAT_V: Final = 0.04  # rise of a segment that lies on a plateau


@dataclass(frozen=True)
class Known:
    """What is known of a cell.

    Attributes:
        nominal_ah: nominal capacity, Ah, > 0.
        v_min_v: lower limit, V.
        v_max_v: upper limit, V.
        chemistry: its name, or None.
    """

    nominal_ah: float
    v_min_v: float
    v_max_v: float
    chemistry: str | None = None


@dataclass(frozen=True)
class CycleSegments:
    """What one cycle says.

    Attributes:
        segments: stretches of constant current, in order.
        capacity_ah: of its full discharge, from limit to limit, or None.
        throughput_ah: Ah in and out since the first cycle seen.
        ended_at_s: when it ended, s since 1970 UTC.
        temperature_c: mean temperature, °C, or None.
        resistance_ohm: measured in it, or None.
    """

    segments: list[Segment]
    capacity_ah: float | None
    throughput_ah: float
    ended_at_s: float
    temperature_c: float | None = None
    resistance_ohm: float | None = None


@dataclass(frozen=True)
class Health:
    """State of health after a cycle.

    Attributes:
        soh: capacity as a share of the cell's own initial capacity, at the reference's
            temperature and rate; None where nothing can be known.
        soh_low: lower end of the 90 % interval; None like `soh`.
        soh_high: upper end.
        reason: why there is no figure; None where there is one.
        method: what the figure is from: "full discharge", "partial charge", "partial discharge",
            or these with " + " between; None like `soh`.
    """

    soh: float | None
    soh_low: float | None
    soh_high: float | None
    reason: str | None
    method: str | None


def _nothing(reason: str) -> Health:
    return Health(None, None, None, reason, None)


@dataclass
class Cell:
    """The state of one cell; `to_bytes` gives at most MOST_BYTES.

    Attributes:
        cycles: cycles seen.
        capacities: full discharges in `capacity_ah`.
        throughput_ah: at the last cycle.
        temperature_c: of the reference; NaN while unknown.
        capacity_ah: initial capacity; NaN while unknown.
        capacity_rate_c: at which that was measured.
        resistance_ohm: of the reference; NaN while unknown.
        noise_v: of its voltage; NaN while unknown.
        full: place of the upper limit, in nominal capacities; NaN while unknown.
        unexplained: share of the segments' rise that neither reference nor noise explains.
        mean: the filter's expectation, (SIZE,).
        covariance: of that.
        references: at most MOST_REFERENCES.
    """

    cycles: int = 0
    capacities: int = 0
    throughput_ah: float = 0.0
    ended_at_s: float = math.nan
    temperature_c: float = math.nan
    capacity_ah: float = math.nan
    capacity_rate_c: float = math.nan
    resistance_ohm: float = math.nan
    noise_v: float = math.nan
    full: float = math.nan
    unexplained: float = 0.0
    mean: F64 = field(default_factory=lambda: np.zeros(0))
    covariance: F64 = field(default_factory=lambda: np.zeros((0, 0)))
    references: list[Reference] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        """The state, its version in the first byte."""
        head = _HEAD.pack(
            VERSION, len(self.references), min(self.cycles, 65_535), self.capacities,
            self.throughput_ah, self.ended_at_s, self.temperature_c, self.capacity_ah,
            self.capacity_rate_c, self.resistance_ohm, self.noise_v, self.full, self.unexplained,
        )  # fmt: skip
        if not len(self.mean):
            return head
        known = np.concatenate((self.mean, self.covariance.ravel())).astype("<f8").tobytes()
        return head + known + b"".join(one.pack() for one in self.references)

    @classmethod
    def from_bytes(cls, packed: bytes) -> Cell:
        """Reads what `to_bytes` gave; empty bytes are a new cell.

        Raises:
            ValueError: another version, or not the length that the head says.
        """
        if not packed:
            return cls()
        if packed[0] != VERSION:
            raise ValueError(f"state of health of version {packed[0]}; this reads {VERSION}")
        if len(packed) < _HEAD.size:
            raise ValueError(f"state of health of {len(packed)} bytes; its head has {_HEAD.size}")
        _, count, *values = _HEAD.unpack_from(packed)
        own = cls(*values)
        if len(packed) == _HEAD.size and not count:
            return own
        wanted = _HEAD.size + 8 * _FILTER + count * PACKED
        if len(packed) != wanted:
            raise ValueError(f"state of health of {len(packed)} bytes; its head says {wanted}")
        numbers = np.frombuffer(packed, "<f8", _FILTER, _HEAD.size)
        own.mean = numbers[:SIZE].copy()
        own.covariance = numbers[SIZE:].reshape(SIZE, SIZE).copy()
        start = _HEAD.size + 8 * _FILTER
        own.references = [
            Reference.unpack(packed[start + PACKED * n : start + PACKED * (n + 1)])
            for n in range(count)
        ]
        return own

    def update(
        self, cycle: CycleSegments, known: Known, chosen: Coefficients | None = None
    ) -> Health:
        """State of health after one more cycle; cycles come in order, each once.

        Args:
            cycle: what the cycle says.
            known: what is known of the cell.
            chosen: other coefficients than those that come with the project.
        """
        given = chosen or plain.default()
        kind = given.of(known.chemistry)
        self._expect(cycle, known, kind, given)
        warmth = self._warmth(cycle, kind, given.filter)
        methods = []
        reason = NO_SEGMENT
        found = None
        if abs(self._apart_k(cycle)) > _MOST_K:
            return _nothing(COLDER)
        # A full discharge says most: its segments are then only followed now and then, for a fit costs
        # more than all else.
        rarely = cycle.capacity_ah is not None and self.cycles > _CLOSELY
        if cycle.segments and not (rarely and self.cycles % _RARELY):
            reason, found, points = self._fit(cycle, known, kind, given, warmth)
            if found is not None:
                self.mean, self.covariance = found.mean, found.covariance
                self.unexplained += 0.1 * (found.unexplained - self.unexplained)
                self.mean[FADE] = max(self.mean[FADE], 0.0)  # cells do not grow
                methods += sorted(
                    {
                        "partial charge" if p.curve.reference.direction > 0.0 else
                        "partial discharge" for p in points
                    }
                )  # fmt: skip
            early = self._learn(cycle, known, found, points if found else [], warmth)
            if early and not methods and self.cycles == 1:
                methods.append("reference")
        if cycle.capacity_ah is not None and self._discharged(cycle, known, kind, warmth):
            methods.insert(0, "full discharge")
        if not methods:
            return _nothing(reason)
        return self._say(methods, kind, given, reason)

    def _expect(
        self, cycle: CycleSegments, known: Known, kind: Chemistry, given: Coefficients
    ) -> None:
        """What is expected of the cycle before it says anything."""
        drift = given.filter
        if not len(self.mean):
            self.mean = np.array([1.0, 0.0, 0.0, kind.cold_per_k, drift.fade_per_cycle, 0.0])
            self.covariance = np.diag(
                [1e-6, 1e-7, 1e-7, kind.cold_per_k_sd**2, drift.fade_per_cycle_sd**2, 1e-8]
            )
            self.throughput_ah = cycle.throughput_ah
        # A cycle ages a cell as such, and by what it moves.
        moved = max(cycle.throughput_ah - self.throughput_ah, 0.0) / (2.0 * known.nominal_ah)
        step = 1.0 if self.cycles else 0.0
        step = max(step, min(moved, 1000.0))
        move = np.eye(SIZE)
        move[SCALE, FADE] = -step
        # Cells that faded fast may slow down: what is not seen again is forgotten.
        kept = math.exp(-step / drift.fade_memory)
        move[FADE, FADE] = kept
        self.mean = move @ self.mean
        self.mean[FADE] += (1.0 - kept) * drift.fade_per_cycle
        drifts = np.zeros(SIZE)
        # A curve that ages otherwise than the model says more and more of something else.
        whole = any(one.is_full for one in self.references)
        bias = drift.bias_drift if whole else drift.bias_drift_window
        bias = math.hypot(bias, drift.bias_per_unexplained * self.unexplained)
        drifts[[SCALE, SLIDE, RESISTANCE, FADE, BIAS]] = (
            drift.scale_drift, drift.slide_drift, drift.resistance_drift, 0.0, bias,
        )  # fmt: skip
        fresh = drifts**2 * step
        fresh[FADE] = drift.fade_per_cycle_sd**2 * (1.0 - kept**2)
        self.covariance = move @ self.covariance @ move.T + np.diag(fresh)
        self.cycles += 1
        self.throughput_ah, self.ended_at_s = cycle.throughput_ah, cycle.ended_at_s
        if cycle.temperature_c is not None and math.isnan(self.temperature_c):
            self.temperature_c = cycle.temperature_c
        if cycle.resistance_ohm is not None and math.isnan(self.resistance_ohm):
            self.resistance_ohm = cycle.resistance_ohm

    def _apart_k(self, cycle: CycleSegments) -> float:
        if cycle.temperature_c is None or math.isnan(self.temperature_c):
            return 0.0
        return cycle.temperature_c - self.temperature_c

    def _warmth(self, cycle: CycleSegments, kind: Chemistry, drift: Filter) -> Warmth:
        apart = self._apart_k(cycle)
        colder = 0.0
        if apart and cycle.temperature_c is not None:
            colder = max(_ROOM_C - cycle.temperature_c, 0.0) - max(
                _ROOM_C - self.temperature_c, 0.0
            )
        more = kind.resistance_ohm_ah * (math.exp(-kind.resistance_per_k * apart) - 1.0)
        return Warmth(colder, more, drift.resistance_sd + 0.4 * abs(more))

    def _graphite(self, kind: Chemistry, reference: Reference) -> F64:
        if not reference.is_full or math.isnan(self.full):
            return np.zeros(POINTS)
        return graphite_at(GRID, self.full, (kind.graphite_empty, kind.graphite_full))

    def _fit(
        self,
        cycle: CycleSegments,
        known: Known,
        kind: Chemistry,
        given: Coefficients,
        warmth: Warmth,
    ) -> tuple[str, Found | None, list[Points]]:
        """What the segments say, or why nothing; and those of which it is said."""
        if not self.references:
            return NO_CURVE, None, []
        reasons, points = [], []
        largest = sorted(cycle.segments, key=lambda own: -float(own.ah[-1]))[:_MOST_SEGMENTS]
        for segment in largest:
            reference = self._nearest(segment, known)
            if isinstance(reference, str):
                reasons.append(reference)
                continue
            noise = noise_of(segment)
            self.noise_v = (
                noise if math.isnan(self.noise_v) else self.noise_v + 0.1 * (noise - self.noise_v)
            )
            spread = float(np.ptp(segment.voltage_v))
            if spread < _LEAST_RISE * self.noise_v / math.sqrt(max(len(segment.ah) / 8.0, 1.0)):
                reasons.append(FLAT)
                continue
            curve = Curve.of(reference, self._graphite(kind, reference))
            points.append(thinned(segment, curve, known.nominal_ah, self.noise_v))
        if not points:
            return reasons[0], None, []
        other = max(abs(p.rate_c / p.curve.reference.rate_c - 1.0) for p in points)
        if other > _SAME_RATE:
            more = _RATE_SD * kind.resistance_ohm_ah * other
            warmth = Warmth(
                warmth.colder_k, warmth.resistance, math.hypot(warmth.resistance_sd, more)
            )
        measured = None
        if cycle.resistance_ohm is not None and not math.isnan(self.resistance_ohm):
            added = (cycle.resistance_ohm - self.resistance_ohm) * known.nominal_ah
            measured = (added, 0.01 + 0.2 * abs(added))
        found = fit(points, self.mean, self.covariance, warmth, given.filter, kind.resistance_ohm_ah,
                    measured)  # fmt: skip
        if not all(found.inside):
            good = [p for p, inside in zip(points, found.inside, strict=True) if inside]
            if not good:
                return NO_OVERLAP, None, []
            points = good
            found = fit(points, self.mean, self.covariance, warmth, given.filter,
                        kind.resistance_ohm_ah, measured)  # fmt: skip
            if not all(found.inside):
                return NO_OVERLAP, None, []
        parts = not all(p.curve.reference.is_full for p in points)
        most = _MOST_MISFIT_PART_V + 2.0 * self.noise_v if parts else _MOST_MISFIT_V
        if found.misfit_v > most or not np.isfinite(found.mean).all():
            # Forced onto a piece of the reference that is another part of the curve.
            return (NO_OVERLAP if parts else NOISE), None, []
        rise = max(float(np.ptp(point.volts)) for point in points)
        return (FLAT if rise < _FLAT_V else LITTLE), found, points

    def _nearest(self, segment: Segment, known: Known) -> Reference | str:
        """The reference of the segment's direction and of the nearest rate, or why there is none."""
        rate = abs(float(np.median(segment.current_a))) / known.nominal_ah
        own = [one for one in self.references if one.direction == segment.direction]
        if not own:
            return NO_OVERLAP
        best = min(own, key=lambda one: abs(math.log(one.rate_c / rate)))
        return best if 1.0 / _MOST_RATE <= best.rate_c / rate <= _MOST_RATE else RATE

    def _learn(
        self,
        cycle: CycleSegments,
        known: Known,
        found: Found | None,
        points: list[Points],
        warmth: Warmth,
    ) -> bool:
        """Lets early segments make the references; whether any did."""
        learnt = False
        for segment in cycle.segments:
            near = self._nearest(segment, known)
            rate = abs(float(np.median(segment.current_a))) / known.nominal_ah
            same = isinstance(near, Reference) and abs(near.rate_c / rate - 1.0) <= _SAME_RATE
            full = self._is_full(segment, known)
            noise = noise_of(segment)
            scale = float(self.mean[SCALE]) * (1.0 - float(self.mean[COLD]) * warmth.colder_k)
            if not same or (
                full and isinstance(near, Reference) and not near.is_full and self.cycles <= _EARLY
            ):
                if same and isinstance(near, Reference):
                    self.references.remove(near)
                if len(self.references) >= MOST_REFERENCES:
                    continue
                moved = segment.ah / known.nominal_ah / scale
                if full:
                    before = segment.skipped_ah / known.nominal_ah / scale
                    place = before + moved if segment.direction > 0.0 else moved[-1] - moved
                    if segment.direction < 0.0:
                        self.full = float(before + moved[-1])
                    elif math.isnan(self.full):
                        self.full = float(1.03 * (before + moved[-1]))
                else:
                    place = self._somewhere(segment, known) + segment.direction * moved
                if place.max() > GRID[-1] or place.min() < GRID[0]:
                    place = place - (place.min() + place.max()) / 2.0 + 0.575
                fresh = Reference(segment.direction, rate, full, 0, noise, np.full(POINTS, np.nan))
                lifted = segment.direction * rate * float(self.mean[RESISTANCE])
                fresh.add(place, segment.voltage_v - lifted)
                if np.count_nonzero(np.isfinite(fresh.volts)) < 4:
                    continue
                self.references.append(fresh)
                learnt = True
            elif found is None and isinstance(near, Reference) and not near.is_full:
                # Another piece of the curve; how far from the others does not matter.
                moved = segment.ah / known.nominal_ah / scale
                place = self._somewhere(segment, known) + segment.direction * moved
                low, high = float(place.min()), float(place.max())
                if self.cycles <= _EARLY_PIECES and near.free(low, high):
                    lifted = segment.direction * rate * float(self.mean[RESISTANCE])
                    near.add(place, segment.voltage_v - lifted)
                    learnt = True
        if found is None:
            return learnt
        for number, point in enumerate(points):
            reference = point.curve.reference
            if (
                self.cycles > _EARLY
                or reference.count >= _EARLY
                or reference not in self.references
            ):
                continue
            other = abs(point.rate_c / reference.rate_c - 1.0)
            if other > _SAME_RATE:
                continue
            scale = float(found.mean[SCALE]) * (1.0 - float(found.mean[COLD]) * warmth.colder_k)
            # As it was read, not thinned: what is smoothed is to know its noise.
            segment = point.segment
            moved = segment.direction * segment.ah / known.nominal_ah
            place = found.starts[number] + moved / scale
            lifted = float(found.mean[RESISTANCE]) + found.own_resistance
            volts = segment.voltage_v - reference.direction * point.rate_c * lifted
            slide = float(found.mean[SLIDE]) if reference.is_full else 0.0
            if slide:
                volts = volts + np.interp(place, GRID, point.curve.graphite)
                place = place + slide
                volts = volts - np.interp(place, GRID, point.curve.graphite)
            reference.add(place, volts)
            learnt = True
        return learnt

    @staticmethod
    def _somewhere(segment: Segment, known: Known) -> float:
        """A place to begin with where none is known: by the voltage, with room on both sides."""
        share = (float(segment.voltage_v[0]) - known.v_min_v) / (known.v_max_v - known.v_min_v)
        return 0.1 + 0.9 * min(max(share, 0.0), 1.0)

    def _is_full(self, segment: Segment, known: Known) -> bool:
        """Whether it goes from about one limit to the other."""
        room = known.v_max_v - known.v_min_v
        moved = (float(segment.ah[-1]) + segment.skipped_ah) / known.nominal_ah
        last = float(segment.voltage_v[-1])
        if segment.direction > 0.0:
            return moved >= 0.7 and known.v_max_v - last <= 0.03 * room
        return moved >= 0.75 and last - known.v_min_v <= 0.15 * room

    def _discharged(
        self, cycle: CycleSegments, known: Known, kind: Chemistry, warmth: Warmth
    ) -> bool:
        """Takes a full discharge's capacity; whether it could be compared."""
        assert cycle.capacity_ah is not None
        if not cycle.capacity_ah > 0.0:
            return False
        rates = [
            (float(s.ah[-1]), abs(float(np.median(s.current_a))) / known.nominal_ah)
            for s in cycle.segments
            if s.direction < 0.0
        ]
        rate = max(rates)[1] if rates else self.capacity_rate_c
        if math.isnan(rate):
            rate = 1.0
        scale = 1.0 - float(self.mean[COLD]) * warmth.colder_k
        if math.isnan(self.capacity_ah):
            self.capacity_rate_c = rate
            self.capacity_ah = cycle.capacity_ah / (self.soh(kind)[0] * scale)
            self.capacities = 1
            return True
        if abs(rate / self.capacity_rate_c - 1.0) > _SAME_RATE:
            return False
        share = cycle.capacity_ah / self.capacity_ah
        if self.capacities < _CAPACITIES and self.cycles <= _EARLY:
            own = cycle.capacity_ah / (self.soh(kind)[0] * scale)
            self.capacities += 1
            self.capacity_ah += (own - self.capacity_ah) / self.capacities
            return True
        soh, change = self.soh(kind)
        change = change * scale
        change[COLD] -= soh * warmth.colder_k
        variance = float(change @ self.covariance @ change) + _FULL_SD**2
        gain = self.covariance @ change / variance
        self.mean = self.mean + gain * (share - soh * scale)
        keep = np.eye(SIZE) - np.outer(gain, change)
        self.covariance = keep @ self.covariance @ keep.T + np.outer(gain, gain) * _FULL_SD**2
        return True

    def soh(self, kind: Chemistry) -> tuple[float, F64]:
        """State of health by the filter, and how it changes with what it knows."""
        full = [one for one in self.references if one.is_full]
        if not full:
            change = np.zeros(SIZE)
            change[[SCALE, BIAS]] = 1.0
            return float(self.mean[SCALE] + self.mean[BIAS]), change
        # A discharge at its usual rate is what capacity means; the fastest one is.
        best = min(full, key=lambda one: (one.direction, -one.rate_c))
        curve = Curve.of(best, self._graphite(kind, best))
        fresh = _span(curve, 0.0, 0.0)
        slide, more = float(self.mean[SLIDE]), float(self.mean[RESISTANCE])
        span = _span(curve, slide, more) / fresh
        change = np.zeros(SIZE)
        change[SCALE], change[BIAS] = span, 1.0
        scale = float(self.mean[SCALE])
        for place, width in ((SLIDE, 4e-3), (RESISTANCE, 4e-3)):
            up = _span(
                curve, slide + width * (place == SLIDE), more + width * (place == RESISTANCE)
            )
            down = _span(
                curve, slide - width * (place == SLIDE), more - width * (place == RESISTANCE)
            )
            change[place] = scale * (up - down) / (2.0 * width) / fresh
        return scale * span + float(self.mean[BIAS]), change

    def _say(self, methods: list[str], kind: Chemistry, given: Coefficients, reason: str) -> Health:
        soh, change = self.soh(kind)
        variance = float(change @ self.covariance @ change)
        if math.sqrt(max(variance, 0.0)) > given.filter.most_sd:
            # What only a full discharge could show, or else what this cycle lacks.
            bias = float(self.covariance[BIAS, BIAS])
            return _nothing(UNSURE if bias > 0.5 * variance else reason)
        full = any(one.is_full for one in self.references)
        interval = given.intervals["full" if full else "window"]
        if methods[0] == "full discharge":
            interval = given.intervals["discharge"]
        loss = max(1.0 - soh, 0.0)
        half = interval.factor * math.sqrt(
            variance + interval.floor**2 + (interval.per_loss * loss) ** 2
        )
        return Health(soh, max(soh - half, 0.0), soh + half, None, " + ".join(methods))


def _span(curve: Curve, slide: float, more: float) -> float:
    """Charge between the limits, in capacities, where electrodes slid and resistance was added."""
    reference = curve.reference
    there = np.flatnonzero(np.isfinite(reference.volts))
    bottom, top = float(reference.volts[there[0]]), float(reference.volts[there[-1]])
    open_v = np.interp(GRID + slide, GRID, curve.positive) - curve.graphite
    # Places beyond the grid's end have the end's voltage: of no matter, the limits lie within.
    rising = np.maximum.accumulate(open_v)
    ends = float(np.interp(top, rising, GRID))
    # Only at the lower limit does the current flow; at the upper it has faded away.
    lifted = -reference.rate_c * more if reference.direction < 0.0 else 0.0
    starts = float(np.interp(bottom, rising + lifted, GRID))
    return max(ends - starts, 10.0 * STEP)
