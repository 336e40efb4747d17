"""The resistance of cells of known truth: within 3 % of it, or null with the reason."""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pipeline import models
from tests.running import Ran, run
from tests.services.bigquery import BigQuery
from tests.services.fixtures import set_environment
from tests.warehouses import Dataset, differences, job_rows

pytestmark = pytest.mark.slow

R0, R1 = 0.05, 0.02
CAPACITY_AH = 2.0
TAUS = (10, 30, 60)
SAMPLINGS = (1, 7, 10, 20, 29, 30, 32, 60)
EARLY = (1.0, 5.0, 10.0, 30.0)
HEADER = ("Date_Time", "Test_Time(s)", "Step_Time(s)", "Cycle_Index", "Step_Index", "Current(A)",
          "Voltage(V)")  # fmt: skip
START_S = 1_709_251_200


def open_circuit(level: float) -> float:
    """Open-circuit voltage, V, of a cell without phase changes; `level` from 0 to 1."""
    return 3.3 + 0.6 * level + 0.15 * level**2


def edge(level: float) -> float:
    """Likewise, V, of a cell whose voltage falls by 50 mV over its last few percents, as LFP's does."""
    return 3.3 + 0.1 * level + 0.05 * math.exp((level - 0.95) / 0.01)


def stair(level: float) -> float:
    """Likewise, V, of a cell with a phase change in the middle of minutes 2 to 5 of a discharge."""
    return 3.3 + 0.1 * level + 0.1 / (1 + math.exp(-(level - 0.8417) / 0.01))


def truth(seconds: float, tau: float) -> float:
    """What the cell's resistance is so long after a step of the current, ohm."""
    return R0 + R1 * (1 - math.exp(-seconds / tau))


class Cell:
    """R0, one RC element and an open-circuit voltage; logged as a cycler does.

    Attributes:
        rows: what was logged: test time, step time, step index, current, voltage.
        volts: step index and time in the step of each second to its voltage.
    """

    def __init__(
        self,
        tau: float,
        level: float,
        noise_v: float = 0.0,
        curve: Callable[[float], float] = open_circuit,
    ) -> None:
        self.tau, self.level, self.noise_v, self.curve = tau, level, noise_v, curve
        self.rows: list[tuple[float, float, int, float, float]] = []
        self._clock, self._slow_v, self._step = 0.0, 0.0, 0
        self._random = random.Random(7)

    def run(
        self, current: float, seconds: float, times: Callable[[float], Iterator[float]]
    ) -> None:
        """One step of constant current, A, with readings at `times` and at its end."""
        self._step += 1
        level, slow = self.level, self._slow_v
        for at in (*times(seconds), seconds):
            self.level = level + current * at / 3600 / CAPACITY_AH
            settled = current * R1
            self._slow_v = settled + (slow - settled) * math.exp(-at / self.tau)
            volts = self.curve(self.level) + current * R0 + self._slow_v
            volts += self._random.gauss(0.0, self.noise_v) if self.noise_v else 0.0
            self.rows.append((self._clock + at, at, self._step, current, volts))
        self._clock += seconds

    def write(self, file: Path, step_time: bool = True) -> None:
        file.parent.mkdir(parents=True)
        with file.open("w", newline="") as opened:
            writer = csv.writer(opened)
            names = [name for name in HEADER if step_time or name != "Step_Time(s)"]
            writer.writerow(names)
            for clock, at, step, current, volts in self.rows:
                stamp = START_S + clock
                whole, micros = int(stamp), round(stamp % 1 * 1e6)
                date = f"2024-03-{1 + (whole - START_S) // 86400:02d}"
                day = whole % 86400
                time = f"{day // 3600:02d}:{day // 60 % 60:02d}:{day % 60:02d}.{micros:06d}"
                values = dict(zip(HEADER, (f"{date} {time}", f"{clock:.4f}", f"{at:.4f}", 1, step,
                                           current, f"{volts:.7f}"), strict=True))  # fmt: skip
                writer.writerow([values[name] for name in names])


def every(interval: float, early: Sequence[float] = ()) -> Callable[[float], Iterator[float]]:
    """Times of a log of one reading per `interval` s, and of `early` ones after the step's start."""

    def times(seconds: float) -> Iterator[float]:
        regular = [interval * n for n in range(1, int(seconds / interval) + 1)]
        yield from (at for at in sorted({*early, *regular}) if at < seconds)

    return times


def constant_loads(folder: Path) -> dict[str, tuple[float, float, bool, bool]]:
    """A discharge of each tau and sampling, with and without early readings and step times."""
    cells: dict[str, tuple[float, float, bool, bool]] = {}
    for tau in TAUS:
        for sampling in SAMPLINGS:
            for early in (False, True):
                for step_time in (True, False):
                    name = f"tau{tau}_dt{sampling}_{'early' if early else 'plain'}_" + (
                        "clock" if step_time else "bare"
                    )
                    cell = Cell(tau, 0.9)
                    cell.run(0.0, 900.0, every(60.0))
                    cell.run(-2.0, 1200.0, every(sampling, EARLY if early else ()))
                    cell.run(0.0, 900.0, every(10.0))
                    cell.write(folder / name / "test.csv", step_time)
                    cells[name] = (tau, sampling, early, step_time)
    return cells


def pulses(folder: Path) -> None:
    """Ten pulses of 30 s with a rest of half an hour after each, and a tenth of the charge between."""
    cell = Cell(30, 1.0)
    cell.run(0.0, 1800.0, every(60.0))
    for _ in range(9):
        cell.run(-2.0, 30.0, every(1.0))
        cell.run(0.0, 1800.0, every(60.0))
        cell.run(-1.0, 690.0, every(60.0))
        cell.run(0.0, 1800.0, every(60.0))
    cell.write(folder / "pulses" / "test.csv")


def odd_ones(folder: Path) -> None:
    """Loads that no figure, or none with a correction, can be had of."""
    noisy = Cell(30, 0.9, noise_v=0.005)
    noisy.run(0.0, 900.0, every(1.0))
    noisy.run(-2.0, 1200.0, every(1.0))
    noisy.write(folder / "noisy" / "test.csv")
    # a relaxation that has only begun
    moving = Cell(60, 0.5)
    moving.run(2.0, 1200.0, every(10.0))
    moving.run(0.0, 5.0, every(1.0))
    moving.run(-2.0, 1200.0, every(1.0))
    moving.write(folder / "moving" / "test.csv")
    # a drive profile in one step
    drive = Cell(30, 0.9)
    drive.run(0.0, 900.0, every(60.0))
    for n in range(200):
        drive.run(-1.0 - n % 3, 7.0, every(1.0))
    drive.rows = [
        (clock, at if step == 1 else clock - 900.0, min(step, 2), current, volts)
        for clock, at, step, current, volts in drive.rows
    ]
    drive.write(folder / "drive" / "test.csv")


def turns(folder: Path) -> None:
    """Discharges that begin where the open-circuit voltage goes another way than minutes later."""
    for name, last in (("edge", 3240.0), ("edge_after_a_short_charge", 90.0)):
        cell = Cell(20, 0.5, curve=edge)
        cell.run(0.0, 900.0, every(10.0))
        if last < 3240.0:
            cell.run(0.9, (3240.0 - last) / 0.9, every(60.0))
        cell.run(1.0, last, every(60.0))
        cell.run(0.0, 900.0, every(60.0))
        cell.run(-2.0, 1200.0, every(60.0, EARLY))
        cell.write(folder / name / "test.csv")
    # back from the edge, by a charge at another rate: what the discharge has shown holds for it
    back = Cell(20, 0.95, curve=lambda level: 7.0 - edge(1.9 - level))
    back.run(0.0, 900.0, every(10.0))
    back.run(2.0, 900.0, every(60.0, EARLY))
    back.run(0.0, 900.0, every(10.0))
    back.run(-1.0, 1800.0, every(60.0))
    back.run(0.0, 900.0, every(10.0))
    back.run(2.0, 900.0, every(60.0, EARLY))
    back.write(folder / "back" / "test.csv")
    later = Cell(20, 0.9, curve=stair)
    later.run(0.0, 900.0, every(60.0))
    later.run(-2.0, 1200.0, every(10.0))
    later.write(folder / "stair" / "test.csv")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, dict[str, Any]]:
    target = tmp_path_factory.mktemp("resistance")
    folder = target / "in"
    cells = constant_loads(folder)
    pulses(folder)
    odd_ones(folder)
    turns(folder)
    ran = run(target, folder)
    assert ran.status == 0, ran.err
    success, counts = models.build(f"duckdb:{ran.warehouse}", "+battery_cycles", data_tests=True)
    assert success, counts
    return ran, cells


def settled_drop(seconds: float) -> float:
    """What the open-circuit voltage falls at 2 A from 0.9 on, ohm."""
    below = 0.9 - 2.0 * seconds / 3600 / CAPACITY_AH
    return (open_circuit(0.9) - open_circuit(below)) / 2.0


def test_within_three_percent_or_null_with_the_reason(built: tuple[Ran, dict[str, Any]]) -> None:
    ran, cells = built
    figures = ran.sql(
        """SELECT equipment_id, dc_resistance_10s_ohm, dc_resistance_10s_ocv_ohm,
            dc_resistance_10s_reason, dc_resistance_30s_ohm, dc_resistance_30s_ocv_ohm,
            dc_resistance_30s_reason, ocv_correction_reason
        FROM battery_resistance WHERE direction = 'discharge' AND equipment_id LIKE 'tau%'"""
    )
    assert {row[0] for row in figures} == set(cells)
    given = {}
    for name, *rest in figures:
        for seconds, plain, corrected, reason in ((10, *rest[:3]), (30, *rest[3:6])):
            known = truth(seconds, cells[name][0])
            assert (plain is None) == (reason is not None), (name, seconds)
            if plain is not None:
                assert plain == pytest.approx(known + settled_drop(seconds), rel=0.03), (
                    name,
                    seconds,
                )
            if corrected is not None:
                assert corrected == pytest.approx(known, rel=0.03), (name, seconds)
                assert plain > corrected
            given[name, seconds] = (plain is not None, corrected is not None, reason)
        if rest[3] is not None and rest[4] is None:
            assert rest[6], name
    for (name, seconds), (plain, corrected, reason) in given.items():
        _, sampling, early, step_time = cells[name]
        if step_time and (sampling in (1, 7, 10) or early or (sampling, seconds) == (30, 30)):
            assert plain and corrected, (name, seconds, reason)
        elif step_time and sampling in (20, 29) and seconds == 30:
            assert plain, (name, reason)
        elif step_time:
            assert reason == f"sampling: no reading in the first {seconds} s", name
        if not step_time and sampling == 1:
            assert plain and corrected, (name, seconds, reason)


def test_no_time_is_made_up_without_a_clock_of_the_step(
    built: tuple[Ran, dict[str, Any]],
) -> None:
    reasons = built[0].sql(
        """SELECT DISTINCT dc_resistance_30s_reason FROM battery_resistance
        WHERE direction = 'discharge' AND equipment_id LIKE 'tau%_plain_bare'
            AND regexp_extract(equipment_id, 'dt(\\d+)', 1)::INT >= 32"""
    )
    assert reasons == [("start: not known when the step began",)]


def test_pulses_are_corrected_by_the_rests_around_them(
    built: tuple[Ran, dict[str, Any]],
) -> None:
    rows = built[0].sql(
        """SELECT dc_resistance_10s_ocv_ohm, dc_resistance_30s_ohm, dc_resistance_30s_ocv_ohm,
            ocv_method, charge_level
        FROM battery_resistance
        WHERE equipment_id = 'pulses' AND direction = 'discharge' AND moved_ah > -0.02
        ORDER BY step_run"""
    )
    assert len(rows) == 9
    for ten, plain, thirty, method, _ in rows:
        assert method == "between_rests"
        assert ten == pytest.approx(truth(10, 30), rel=0.03)
        assert thirty == pytest.approx(truth(30, 30), rel=0.03)
        assert plain - thirty > 0.001
    assert [row[4] for row in rows] == pytest.approx([1 - n / 9 for n in range(9)], abs=1e-3)
    mid, seconds = built[0].sql(
        """SELECT dc_resistance_mid_charge_ohm, dc_resistance_mid_charge_s FROM battery_cycles
        WHERE equipment_id = 'pulses'"""
    )[0]
    assert seconds == 30
    assert mid == pytest.approx(truth(30, 30), rel=0.03)
    # Cycles without pulses have no figure at half charge.
    assert built[0].sql(
        """SELECT count(dc_resistance_mid_charge_ohm) FROM battery_cycles
        WHERE equipment_id LIKE 'tau%'"""
    ) == [(0,)]


def test_the_rest_after_a_long_load_gives_its_resistance_too(
    built: tuple[Ran, dict[str, Any]],
) -> None:
    rows = built[0].sql(
        """SELECT equipment_id, dc_resistance_30s_ohm, dc_resistance_30s_ocv_ohm
        FROM battery_resistance WHERE direction = 'rest' AND equipment_id LIKE 'tau%_clock'"""
    )
    assert len(rows) == len(TAUS) * len(SAMPLINGS) * 2
    for name, plain, corrected in rows:
        # No charge moves: there is nothing to correct.
        assert plain == corrected == pytest.approx(truth(30, built[1][name][0]), rel=0.03), name


@pytest.mark.parametrize("cell", ["edge", "back"])
def test_what_the_load_before_has_shown_corrects_the_next(
    built: tuple[Ran, dict[str, Any]], cell: str
) -> None:
    rows = built[0].sql(
        f"""SELECT ocv_method, dc_resistance_10s_ocv_ohm, dc_resistance_30s_ohm,
            dc_resistance_30s_ocv_ohm
        FROM battery_resistance WHERE equipment_id = '{cell}' AND direction <> 'rest'
        ORDER BY step_run"""
    )
    method, ten, plain, thirty = rows[-1]
    assert method == "load_before"
    assert plain > 1.1 * truth(30, 20)
    assert ten == pytest.approx(truth(10, 20), rel=0.03)
    assert thirty == pytest.approx(truth(30, 20), rel=0.03)


@pytest.mark.parametrize(
    ("cell", "plain", "corrected"),
    [
        ("noisy", "voltage: too noisy for so small a change", "resistance: not known"),
        ("drive", "current: not constant until 30 s", "resistance: not known"),
        ("moving", None, "voltage: was moving before the step"),
        ("stair", None, "open circuit: slope not known well enough"),
        (
            "edge_after_a_short_charge",
            None,
            "open circuit: how it goes as the step begins is not known",
        ),
    ],
)
def test_what_cannot_be_known_says_so(
    built: tuple[Ran, dict[str, Any]], cell: str, plain: str | None, corrected: str
) -> None:
    rows = built[0].sql(
        f"""SELECT dc_resistance_30s_reason, ocv_correction_reason,
            dc_resistance_30s_ohm IS NULL, dc_resistance_30s_ocv_ohm
        FROM battery_resistance WHERE equipment_id = '{cell}' AND direction = 'discharge'"""
    )
    assert rows == [(plain, corrected, plain is not None, None)]


@pytest.mark.integration
@pytest.mark.long
@pytest.mark.timeout(900)
def test_bigquery_gives_the_same(
    built: tuple[Ran, dict[str, Any]], bigquery: BigQuery, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = built[0]
    some = "equipment_id IN ('pulses', 'moving', 'edge', 'back', 'drive', 'tau30_dt7_plain_bare')"
    some += " OR equipment_id LIKE 'tau60_dt20_%'"
    set_environment(monkeypatch, bigquery.environment)
    dataset = Dataset(bigquery)
    dataset.load(job_rows(ran.warehouse, some))
    success, counts = models.build(dataset.uri, "+battery_resistance", data_tests=False)
    assert success, counts
    with duckdb.connect(str(ran.warehouse), read_only=True) as database:
        database.execute("SET TimeZone = 'UTC'")
        wanted = database.sql(f"SELECT * FROM battery_resistance WHERE {some} ORDER BY step_key")
        rows = wanted.to_arrow_table().to_pylist()
    assert sum(row["dc_resistance_30s_ocv_ohm"] is not None for row in rows) > 10
    assert not differences(dataset.table("battery_resistance"), rows)
