"""What cycles add up to: a row of numbers per cycle, of readings that are measured.

The definitions are those of int_cycle_totals and battery_steps.
"""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt

from transforms.cycles.measure import F64, I64, CellLimits, Mask, Measured, Rows, after

# As dbt_project.yml has them: cutoff_voltage_margin_v, upper_voltage_margin_v,
# cutoff_current_factor.
_LOWER_MARGIN_V = 0.05
_UPPER_MARGIN_V = 0.02
_CUTOFF_FACTOR = 1.1
# More than this share of the nominal capacity is no single swing.
_ONE_SWING = 1.5
# Of battery_steps: a step is at constant current if so much of it ran at its largest one.
_FULL_CURRENT = 0.95
_CC_SHARE = 0.97
_CC_SHARE_NEAR = 0.9
_END_NEAR = 0.9
_CV_SHARE = 0.25
# Each 0.1 V, for the time at voltage.
_BINS_PER_V = 10


class Cycles:
    """Readings cut into cycles.

    Args:
        rows: the readings, cycles' rows together and in order.
        measured: what follows of each.
        starts: the first row of each cycle, shape (c,).
        ends: one behind its last row; what lies between two cycles counts for none.
        limits: of the profiles.
    """

    def __init__(
        self, rows: Rows, measured: Measured, starts: I64, ends: I64, limits: CellLimits
    ) -> None:
        self._rows, self._measured, self._limits = rows, measured, limits
        self._starts, self._ends = starts, ends
        # Pairs of borders, of which every other stretch is a cycle.
        self._borders = np.stack([starts, ends], axis=1).ravel()
        if len(self._borders) and self._borders[-1] == len(rows.test):
            self._borders = self._borders[:-1]

    def _reduced(self, how: np.ufunc, values: npt.NDArray[np.generic]) -> F64:
        """One number per cycle."""
        return np.asarray(how.reduceat(values, self._borders)[::2], dtype=np.float64)

    def _sum(self, values: npt.NDArray[np.generic]) -> F64:
        return self._reduced(np.add, values)

    def _low(self, values: F64) -> F64:
        return self._reduced(np.fmin, values)

    def _high(self, values: F64) -> F64:
        return self._reduced(np.fmax, values)

    def _time_mean(self, values: F64 | None) -> F64:
        """The mean over time; over readings where none stands for any time; NaN without any."""
        if values is None:
            return np.full(len(self._starts), np.nan)
        known = ~np.isnan(values)
        filled = np.where(known, values, 0.0)
        weight = self._sum(np.where(known, self._measured.weight_s, 0.0))
        total = self._sum(filled * self._measured.weight_s)
        with np.errstate(invalid="ignore", divide="ignore"):
            plain = self._sum(filled) / self._sum(known.astype(np.float64))
            return np.where(weight > 0.0, total / weight, plain)

    def columns(self) -> dict[str, F64]:
        """The numbers of schema CYCLES_LIVE that are sums, means and ends, shape (c,) each."""
        rows, measured = self._rows, self._measured
        out = {
            "readings": (self._ends - self._starts).astype(np.float64),
            "duration_s": self._sum(np.nan_to_num(measured.delta_s)),
            "charge_ah": self._sum(measured.charge_ah),
            "discharge_ah": self._sum(measured.discharge_ah),
            "charge_wh": self._sum(measured.charge_wh),
            "discharge_wh": self._sum(measured.discharge_wh),
            "v_min_v": self._low(rows.voltage),
            "v_max_v": self._high(rows.voltage),
            "internal_resistance_ohm": self._time_mean(rows.resistance),
            "temperature_mean_c": self._time_mean(rows.temperature),
            "ambient_temperature_mean_c": self._time_mean(rows.ambient),
            "gaps": self._sum(measured.gap),
            "flagged_readings": self._sum(rows.flags != 0),
            "by_counter": self._high(measured.by_counter.astype(np.float64)),
        }
        nothing = np.full(len(self._starts), np.nan)
        for name, how in (("temperature_min_c", self._low), ("temperature_max_c", self._high)):
            out[name] = nothing if rows.temperature is None else how(rows.temperature)
        return out | self._of_steps()

    def _of_steps(self) -> dict[str, F64]:
        """Voltages at the ends of charge and discharge, and the current that a held voltage ends with."""
        rows, measured = self._rows, self._measured
        size = len(rows.test)
        cycle = np.zeros(size + 1, dtype=np.int64)
        np.add.at(cycle, self._borders, 1)
        part = np.cumsum(cycle[:-1])
        new = measured.step_start.copy()
        new[0] = True
        new[1:] |= part[1:] != part[:-1]
        begin = np.flatnonzero(new)
        end = np.append(begin[1:], size)
        in_cycle = part[begin] % 2 == 1
        which = (part[begin] - 1) // 2
        current = np.abs(rows.current)
        largest = np.maximum.reduceat(current, begin)
        step = np.cumsum(new) - 1
        known = np.nan_to_num(measured.delta_s)
        full = np.add.reduceat(
            np.where(current >= _FULL_CURRENT * largest[step], known, 0.0), begin
        )
        lasted = np.add.reduceat(known, begin)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(lasted > 0.0, full / lasted, np.nan)
        mean = np.add.reduceat(rows.current * self._step_weights(), begin)
        plain = np.add.reduceat(rows.current, begin)
        mean = np.where(mean != 0.0, mean, plain)
        rest = largest <= np.maximum.reduceat(measured.rest_current_a, begin)
        last = rows.current[end - 1]
        constant = (end - begin == 1) | ~(share < _CC_SHARE)
        ends_high = np.abs(last) >= _END_NEAR * largest
        is_cv = ~constant & ~ends_high & (share < _CV_SHARE)
        is_cccv = ~constant & ~ends_high & ~(share < _CV_SHARE)
        charges, discharges = ~rest & (mean >= 0) & in_cycle, ~rest & (mean < 0) & in_cycle
        high = np.fmax.reduceat(rows.voltage, begin)
        low = np.fmin.reduceat(rows.voltage, begin)
        count = len(self._starts)
        charge_end, discharge_end = np.full(count, np.nan), np.full(count, np.nan)
        np.fmax.at(charge_end, which[charges], high[charges])
        np.fmin.at(discharge_end, which[discharges], low[discharges])
        cv_end = np.full(count, np.nan)
        held = charges & (is_cv | is_cccv)
        # Of several the last one stays.
        cv_end[which[held]] = last[held]
        return {
            "charge_end_voltage_v": charge_end,
            "discharge_end_voltage_v": discharge_end,
            "cv_end_current_a": cv_end,
        }

    def _step_weights(self) -> F64:
        """The time that each reading stands for within its step."""
        measured = self._measured
        skipped = measured.gap | measured.step_start | np.isnan(measured.delta_s)
        kept = np.where(skipped, 0.0, measured.delta_s)
        behind = after(kept, measured.first)
        weight = (kept + np.nan_to_num(behind)) / 2.0
        with np.errstate(invalid="ignore"):
            own = np.fmin(self._rows.step_time_s, measured.delta_s)
        starts = measured.step_start & ~measured.gap
        return np.asarray(weight + np.where(starts, np.nan_to_num(own), 0.0))

    def is_full(self, found: dict[str, F64]) -> list[bool | None]:
        """Whether each went from limit to limit, by `columns`; None where the profile names none."""
        profile = self._rows.profile[self._starts]
        nominal = self._limits.nominal_ah[profile]
        low, high = self._limits.v_min[profile], self._limits.v_max[profile]
        cutoff = self._limits.cutoff_a[profile]
        with np.errstate(invalid="ignore"):
            full = found["discharge_end_voltage_v"] <= low + _LOWER_MARGIN_V
            full &= found["charge_end_voltage_v"] >= high - _UPPER_MARGIN_V
            full &= ~(found["cv_end_current_a"] > _CUTOFF_FACTOR * cutoff)
            # Several swings under one number.
            full &= ~(np.fmax(found["charge_ah"], found["discharge_ah"]) > _ONE_SWING * nominal)
        known = ~(np.isnan(low) | np.isnan(high))
        return [bool(f) if k else None for f, k in zip(full, known, strict=True)]

    def voltage_times(self) -> list[str]:
        """Seconds in each 0.1 V, as a JSON object per cycle."""
        size = len(self._rows.test)
        cycle = np.zeros(size + 1, dtype=np.int64)
        np.add.at(cycle, self._borders, 1)
        part = np.cumsum(cycle[:-1])
        inside: Mask = part % 2 == 1
        which = (part[inside] - 1) // 2
        bins = np.floor(self._rows.voltage[inside] * _BINS_PER_V + 1e-9).astype(np.int64)
        if not len(bins):
            return []
        low = int(bins.min())
        width = int(bins.max()) - low + 1
        seconds = np.bincount(
            which * width + bins - low,
            self._measured.weight_s[inside],
            minlength=width * len(self._starts),
        ).reshape(-1, width)
        names = [f"{(low + place) / _BINS_PER_V:.1f}" for place in range(width)]
        return [
            json.dumps(
                {names[place]: round(float(line[place]), 3) for place in np.flatnonzero(line)}
            )
            for line in seconds
        ]
