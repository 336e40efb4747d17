"""dQ/dV against cells whose curve is known: noise, sampling, chemistry, stages, edges and gaps.

The cells are sums of reactions: the charge below a voltage is a sum of logistic functions and a
line, so that dQ/dV, its peaks and their heights are known without any differences.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline import models
from tests.running import Ran, run

Floats = NDArray[np.float64]
RESISTANCE_OHM = 0.06


@dataclass(frozen=True)
class Chemistry:
    """A cell's reactions.

    Attributes:
        reactions: middle (V), width (V) and charge (Ah) of each.
        linear: charge per volt outside of them, Ah/V.
        low, high: cut-off voltages at rest, V.
    """

    reactions: tuple[tuple[float, float, float], ...]
    linear: float
    low: float
    high: float

    def charge(self, volts: Floats) -> Floats:
        """Charge below a voltage, Ah."""
        moved = self.linear * volts
        for v, width, ah in self.reactions:
            moved = moved + ah / (1 + np.exp(-(volts - v) / width))
        return moved

    def slope(self, volts: Floats) -> Floats:
        """dQ/dV, Ah/V."""
        slope = np.full_like(volts, self.linear)
        for v, width, ah in self.reactions:
            slope = slope + ah / (4 * width) / np.cosh((volts - v) / (2 * width)) ** 2
        return slope

    def peaks(self) -> list[tuple[float, float]]:
        """Voltage and height of the maxima of dQ/dV."""
        volts = np.linspace(self.low, self.high, 200_001)
        height = self.slope(volts)
        inner = (height[1:-1] > height[:-2]) & (height[1:-1] > height[2:])
        return [(float(volts[i]), float(height[i])) for i in np.flatnonzero(inner) + 1]


OXIDE = Chemistry(((3.6, 0.03, 0.6), (3.78, 0.025, 0.7), (4.0, 0.03, 0.45)), 0.2, 3.2, 4.2)
PHOSPHATE = Chemistry(((3.21, 0.004, 0.5), (3.26, 0.003, 0.6), (3.31, 0.004, 0.8)), 0.15, 2.9, 3.6)


@dataclass(frozen=True)
class Case:
    """One cell's test: a charge in stages to cut-off voltages, a rest, a discharge.

    Attributes:
        chemistry: of the cell.
        every_s: sampling interval, s.
        noise_v, step_v: noise (standard deviation) and resolution of the voltage, V.
        stages: current (A) and cut-off voltage (V; None: that of the cell) of each charge stage.
        discharge_a: current of the discharge, A.
        numbered: whether the file has step numbers.
        unread: the part of the charge without readings, from and to in Ah.
    """

    chemistry: Chemistry
    every_s: float = 10.0
    noise_v: float = 0.0
    step_v: float = 0.0
    stages: Sequence[tuple[float, float | None]] = ((1.0, None),)
    discharge_a: float = 1.0
    numbered: bool = True
    unread: tuple[float, float] = field(default=(0.0, 0.0))

    def write(self, path: Path, seed: int) -> None:
        """The readings, as a cycler's CSV file."""
        noise = np.random.default_rng(seed)
        cell = self.chemistry
        volts = np.linspace(cell.low - 0.2, cell.high + 0.2, 400_001)
        ah = cell.charge(volts)
        ah -= np.interp(cell.low, volts, ah)
        held, clock, rows = 0.0, 0.0, []
        counters = [0.0, 0.0]
        steps = [(amps, stop or cell.high) for amps, stop in self.stages]
        for number, (amps, stop) in enumerate([*steps, (0.0, 0.0), (-self.discharge_a, cell.low)]):
            drop = amps * RESISTANCE_OHM
            if amps == 0:
                seconds: Floats = np.arange(10.0, 601.0, 10.0)
            else:
                # To the open-circuit voltage that the cell is at when it meets the cut-off.
                target = float(np.interp(stop, volts, ah))
                last = (target - held) / amps * 3600
                if last <= self.every_s:
                    continue
                seconds = np.append(np.arange(self.every_s, last, self.every_s), last)
            moved = amps * seconds / 3600
            voltage = np.interp(held + moved, ah, volts) + drop
            voltage = voltage + noise.normal(0.0, self.noise_v, len(voltage))
            if self.step_v:
                voltage = np.round(voltage / self.step_v) * self.step_v
            for second, ampere_hours, v in zip(seconds, moved, voltage, strict=True):
                if amps > 0 and self.unread[0] < held + ampere_hours < self.unread[1]:
                    continue
                rows.append(
                    [
                        f"{clock + second:.3f}",
                        1,
                        number + 1,
                        amps,
                        f"{v:.7f}",
                        f"{counters[0] + max(ampere_hours, 0.0):.9f}",
                        f"{counters[1] + max(-ampere_hours, 0.0):.9f}",
                    ]
                )
            clock += float(seconds[-1])
            end = float(moved[-1])
            held += end
            counters[0 if end > 0 else 1] += abs(end)
        names = ["Test_Time(s)", "Cycle_Index", "Step_Index", "Current(A)", "Voltage(V)"]
        names += ["Charge_Capacity(Ah)", "Discharge_Capacity(Ah)"]
        keep = [i for i, name in enumerate(names) if self.numbered or name != "Step_Index"]
        start = np.datetime64("2024-03-01T00:00:00.000")
        path.parent.mkdir()
        with path.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["Date_Time", *(names[i] for i in keep)])
            for row in rows:
                at = start + np.timedelta64(round(1000 * float(str(row[0]))), "ms")
                table.writerow([str(at), *(row[i] for i in keep)])


TWO_STAGES = ((1.5, 3.72), (0.5, None))
CASES = {
    # What sampling and resolution alone must not change.
    "oxide_1s": Case(OXIDE, every_s=1.0),
    "oxide_10s": Case(OXIDE),
    "oxide_60s": Case(OXIDE, every_s=60.0),
    "oxide_5mv": Case(OXIDE, every_s=2.0, step_v=0.005),
    "oxide_c20_300s": Case(OXIDE, every_s=300.0, stages=((0.1, None),), discharge_a=0.1),
    "phosphate_c5": Case(PHOSPHATE, stages=((0.4, None),), discharge_a=0.4),
    "phosphate_c10_60s": Case(PHOSPHATE, every_s=60.0, stages=((0.2, None),), discharge_a=0.2),
    "phosphate_c20_300s": Case(PHOSPHATE, every_s=300.0, stages=((0.1, None),), discharge_a=0.1),
    # Noise.
    "oxide_noise_02mv": Case(OXIDE, every_s=2.0, noise_v=0.0002),
    "oxide_noise_1mv": Case(OXIDE, noise_v=0.001),
    "oxide_noise_5mv_1s": Case(OXIDE, every_s=1.0, noise_v=0.005),
    "oxide_noise_5mv_60s": Case(OXIDE, every_s=60.0, noise_v=0.005),
    "phosphate_noise_01mv": Case(PHOSPHATE, 10.0, 0.0001, 0.0, ((0.4, None),), 0.4),
    "phosphate_noise_02mv": Case(PHOSPHATE, 10.0, 0.0002, 0.0, ((0.4, None),), 0.4),
    "phosphate_noise_5mv": Case(PHOSPHATE, noise_v=0.005, stages=((0.4, None),), discharge_a=0.4),
    "phosphate_10mv": Case(PHOSPHATE, step_v=0.01, stages=((0.4, None),), discharge_a=0.4),
    # Stages, an edge on a flank, a gap.
    "stages": Case(OXIDE, stages=TWO_STAGES),
    "stages_without_numbers": Case(OXIDE, stages=TWO_STAGES, numbered=False),
    "ends_before_the_peak": Case(OXIDE, stages=((1.0, 3.765),)),
    "gap": Case(OXIDE, unread=(0.75, 1.15)),
}
EXACT = {name for name in CASES if name.split("_")[0] in ("oxide", "phosphate")} - {
    "oxide_noise_1mv", "oxide_noise_5mv_1s", "oxide_noise_5mv_60s", "phosphate_noise_02mv",
    "phosphate_noise_5mv", "phosphate_10mv",
}  # fmt: skip


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("cells")
    source = folder / "source"
    source.mkdir()
    for seed, (name, case) in enumerate(CASES.items()):
        case.write(source / name / f"{name}.csv", seed)
    ran = run(folder, source)
    assert ran.status == 0, ran.err
    success, counts = models.build(f"duckdb:{ran.warehouse}", "+battery_ica_stages")
    assert success, counts
    return ran


def peaks(cells: Ran, name: str, direction: str) -> list[tuple[float, float, float, float]]:
    """Voltage, its error, height, its error; by voltage."""
    rows = cells.sql(
        f"""SELECT voltage_v, voltage_error_v, dq_dv_ah_per_v, dq_dv_error_ah_per_v
        FROM battery_ica_peaks WHERE equipment_id = '{name}' AND direction = '{direction}'
        ORDER BY voltage_v"""
    )
    return [(float(v), float(dv), float(h), float(dh)) for v, dv, h, dh in rows]


def reasons(cells: Ran, name: str, direction: str) -> list[str | None]:
    rows = cells.sql(
        f"""SELECT reason FROM battery_ica_stages
        WHERE equipment_id = '{name}' AND direction = '{direction}' ORDER BY step_run, stage"""
    )
    return [row[0] for row in rows]


def true_peaks(case: Case, amps: float) -> list[tuple[float, float]]:
    return [(v + amps * RESISTANCE_OHM, h) for v, h in case.chemistry.peaks()]


@pytest.mark.parametrize("direction", ["charge", "discharge"])
@pytest.mark.parametrize("name", sorted(EXACT))
def test_peaks_are_where_they_are(cells: Ran, name: str, direction: str) -> None:
    case = CASES[name]
    amps = case.stages[0][0] if direction == "charge" else -case.discharge_a
    found, true = peaks(cells, name, direction), true_peaks(case, amps)
    assert len(found) == len(true) == 3, (found, reasons(cells, name, direction))
    for (v, error_v, height, error), (true_v, true_height) in zip(found, true, strict=True):
        assert v == pytest.approx(true_v, abs=0.003)
        assert height == pytest.approx(true_height, rel=0.05)
        # The errors own up to what is off, and not to much more than the curve is worth.
        assert abs(v - true_v) < 2 * error_v
        assert abs(height - true_height) < 3 * error + 0.005 * height
        assert error < 0.1 * height


@pytest.mark.parametrize("direction", ["charge", "discharge"])
@pytest.mark.parametrize("name", sorted(n for n in CASES if n.split("_")[-1] != "gap"))
def test_nothing_is_wrong_without_a_word(cells: Ran, name: str, direction: str) -> None:
    """Every peak is a true one within its error, and every stage without one says why."""
    case = CASES[name]
    rows = cells.sql(
        f"""SELECT voltage_v, voltage_error_v, dq_dv_ah_per_v, dq_dv_error_ah_per_v, current_a
        FROM battery_ica_peaks JOIN battery_ica_stages USING (stage_key)
        WHERE battery_ica_peaks.equipment_id = '{name}'
        AND battery_ica_peaks.direction = '{direction}'"""
    )
    for v, error_v, height, error, amps in rows:
        true = true_peaks(case, amps if direction == "charge" else -amps)
        true_v, true_height = min(true, key=lambda peak: abs(peak[0] - v))
        assert abs(v - true_v) < max(0.003, 2.5 * error_v)
        assert abs(height - true_height) < max(0.05 * true_height, 3 * error)
    told = reasons(cells, name, direction)
    assert told
    counts = cells.sql(
        f"""SELECT peaks > 0, reason IS NULL FROM battery_ica_stages
        WHERE equipment_id = '{name}' AND direction = '{direction}'"""
    )
    assert all(has_peaks == has_no_reason for has_peaks, has_no_reason in counts)


def test_the_curve_is_the_true_one(cells: Ran) -> None:
    rows = np.array(
        cells.sql(
            """SELECT voltage_v, dq_dv_ah_per_v FROM battery_ica
            WHERE equipment_id = 'oxide_10s' AND direction = 'charge' ORDER BY point"""
        )
    )
    true = OXIDE.slope(rows[:, 0] - RESISTANCE_OHM)
    high = true > 1.5
    assert high.sum() > 100
    assert np.abs(rows[high, 1] / true[high] - 1).max() < 0.05
    # The area under a curve is charge; trapezoids cut the corners where it is steep.
    area = np.trapezoid(rows[:, 1], rows[:, 0])
    moved = np.diff(OXIDE.charge(rows[[0, -1], 0] - RESISTANCE_OHM))[0]
    assert area == pytest.approx(moved, rel=0.006)


def test_the_area_of_a_peak_is_the_charge_between_its_valleys(cells: Ran) -> None:
    areas = cells.sql(
        """SELECT area_ah, voltage_from_v, voltage_to_v, is_main FROM battery_ica_peaks
        WHERE equipment_id = 'oxide_10s' AND direction = 'charge' ORDER BY peak"""
    )
    for area, low, high, _ in areas:
        moved = np.diff(OXIDE.charge(np.array([low, high]) - RESISTANCE_OHM))[0]
        assert area == pytest.approx(moved, rel=0.01, abs=0.002)
    assert [row[3] for row in areas] == [False, True, False]
    assert areas[0][2] == areas[1][1] and areas[1][2] == areas[2][1]


def test_noise_widens_the_window(cells: Ran) -> None:
    widths = dict(
        cells.sql(
            """SELECT equipment_id, min(window_ah) FROM battery_ica_stages
            WHERE direction = 'charge' GROUP BY 1"""
        )
    )
    assert widths["oxide_10s"] < widths["oxide_noise_1mv"] <= widths["oxide_noise_5mv_60s"]
    measured = dict(
        cells.sql("SELECT equipment_id, noise_v FROM battery_ica_stages WHERE direction = 'charge'")
    )
    assert measured["oxide_noise_5mv_1s"] == pytest.approx(0.005, rel=0.1)
    assert measured["oxide_noise_1mv"] == pytest.approx(0.001, rel=0.15)
    assert measured["oxide_10s"] < 0.0001


@pytest.mark.parametrize("name", ["phosphate_noise_5mv", "phosphate_10mv"])
def test_what_noise_or_rounding_hides_is_no_peak(cells: Ran, name: str) -> None:
    assert peaks(cells, name, "charge") == []
    (reason,) = reasons(cells, name, "charge")
    assert reason in {
        "the readings are too far apart, or the voltage is too coarse",
        "the slope does not stand out from the noise",
        "no peak stands out from its surroundings and its error",
    }


@pytest.mark.parametrize("name", ["stages", "stages_without_numbers"])
def test_every_stage_of_a_charge_has_its_curve(cells: Ran, name: str) -> None:
    rows = cells.sql(
        f"""SELECT current_a, voltage_v, dq_dv_ah_per_v FROM battery_ica_peaks
        JOIN battery_ica_stages USING (stage_key) WHERE battery_ica_peaks.equipment_id = '{name}'
        AND battery_ica_peaks.direction = 'charge' ORDER BY current_a DESC, voltage_v"""
    )
    # 1.5 A up to 3.72 V at rest, with 0.09 V on top; then 0.5 A.
    (first, second, third) = OXIDE.peaks()
    wanted = [(1.5, *first), (0.5, *second), (0.5, *third)]
    assert [row[0] for row in rows] == [amps for amps, *_ in wanted]
    for (amps, volts, height), (_, true_v, true_height) in zip(rows, wanted, strict=True):
        assert volts == pytest.approx(true_v + amps * RESISTANCE_OHM, abs=0.003)
        assert height == pytest.approx(true_height, rel=0.05)


def test_the_edge_of_a_curve_is_no_peak(cells: Ran) -> None:
    """The charge ends on the flank of the second reaction, where dQ/dV is highest."""
    found = peaks(cells, "ends_before_the_peak", "charge")
    assert [round(v - RESISTANCE_OHM, 2) for v, *_ in found] == [3.6]
    edge = cells.sql(
        """SELECT arg_max(dq_dv_ah_per_v, point) = max(dq_dv_ah_per_v) FROM battery_ica
        WHERE equipment_id = 'ends_before_the_peak' AND direction = 'charge'"""
    )
    assert edge == [(True,)]


def test_what_was_not_read_is_not_known(cells: Ran) -> None:
    """Without readings from 0.75 to 1.15 Ah the peak at 3.78 V has no height."""
    rows = cells.sql(
        """SELECT charge_ah, dq_dv_ah_per_v, reason FROM battery_ica
        WHERE equipment_id = 'gap' AND direction = 'charge'"""
    )
    unread = [(height, why) for ah, height, why in rows if 0.75 < ah < 1.15]
    assert unread
    assert set(unread) == {(None, "the readings are too far apart here")}
    assert all(height for ah, height, _ in rows if not 0.7 < ah < 1.19)
    assert [round(v - RESISTANCE_OHM, 2) for v, *_ in peaks(cells, "gap", "charge")] == [3.6, 4.0]
