"""What the models make of protocols that are not a full cycle after the other, against the truth."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from pipeline import models
from tests.protocols import COUNTERS, CUTOFF, CYCLE, LOWER, UPPER, Cell
from tests.running import Ran, run

PROFILE = """
name = "{name}"
equipment = ["{name}_*"]
chemistry = "NMC"
nominal_capacity_ah = {nominal}
rated_current_a = 2.0
v_min_v = {lower}
v_max_v = {upper}
cutoff_current_a = {cutoff}
"""


@dataclass
class Made:
    """The job's and the models' outcome on all cells, and what is true of them.

    Attributes:
        ran: the run.
        truth: Ah of each cell's full discharges, in order.
    """

    ran: Ran
    truth: dict[str, list[float]] = field(default_factory=dict)

    def cycles(self, cell: str, columns: str) -> list[tuple[object, ...]]:
        """Columns of a cell's cycles, in order."""
        return self.ran.sql(
            f"SELECT {columns} FROM battery_cycles WHERE equipment_id = '{cell}' "
            "ORDER BY cycle_number"
        )

    def life(self, cell: str, columns: str) -> tuple[object, ...]:
        """Columns of a cell's life."""
        (row,) = self.ran.sql(
            f"SELECT {columns} FROM battery_lifetime WHERE equipment_id = '{cell}'"
        )
        return row


def partly(cell: Cell, low: float, high: float) -> None:
    """A cycle between two states of charge, ended by the charge moved."""
    cell.run(1, 1.0, move_ah=(high - cell.share) * cell.capacity_ah)
    cell.run(3, 0.0, seconds=300.0)
    cell.run(4, -2.0, move_ah=(cell.share - low) * cell.capacity_ah, early=(1.0, 10.0, 30.0))
    cell.run(5, 0.0, seconds=300.0)


def drive(cell: Cell) -> float:
    """A discharge by pulses, a sixth of which flows back; returns net Ah."""
    before = cell.counters[1] - cell.counters[0]
    while cell.rows[-1][5] > LOWER:
        for amps, seconds in ((-3.0, 20.0), (-0.5, 20.0), (1.0, 10.0)):
            cell.run(4, amps, seconds=seconds, until_v=LOWER if amps < 0 else None, every=5.0)
            if cell.rows[-1][5] <= LOWER:
                break
    moved = cell.counters[1] - cell.counters[0] - before
    cell.run(5, 0.0, seconds=600.0)
    return moved


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("judgement")
    files = folder / "in"
    truth: dict[str, list[float]] = {}

    def save(name: str, cell: Cell, *, omit: tuple[str, ...] = (), daily: bool = False) -> None:
        cell.write(files / name / f"{name}.csv", omit, daily)

    cell = Cell(share=0.3)
    for number in range(1, 21):
        cell.cycle = number
        partly(cell, 0.3, 0.8)
    for name in ("lab_partial", "any_partial"):
        save(name, cell)

    cell = Cell(share=0.3)
    truth["any_checked"] = []
    for number in range(1, 52):
        cell.cycle, cell.capacity_ah = number, 2.0 - 0.004 * number
        if number % 25 == 1:
            cell.charge()
            truth["any_checked"].append(cell.discharge())
        else:
            partly(cell, 0.3, 0.8)
    save("any_checked", cell)

    cell = Cell()
    for number in range(1, 13):
        cell.cycle = number
        cell.run(1, 1.0, until_v=3.95 if number % 2 else 4.19)
        cell.discharge()
    for name in ("lab_unheld", "any_unheld"):
        save(name, cell)

    cell = Cell(share=0.5)
    truth["lab_first_out"] = []
    for number in range(1, 7):
        cell.cycle = number
        truth["lab_first_out"].append(cell.discharge())
        cell.charge()
    save("lab_first_out", cell)
    save("lab_first_out_bare", cell, omit=CYCLE)

    cell = Cell()
    truth["lab_several"] = []
    for number in range(1, 6):
        cell.cycle = number
        for _ in range(3 if number < 3 else 1):
            cell.charge()
            truth["lab_several"].append(cell.discharge())
    save("lab_several", cell)

    cell = Cell()
    truth["lab_shallow"] = []
    for number in range(1, 4):
        cell.cycle = number
        cell.charge()
        start = cell.counters[1] - cell.counters[0]
        cell.run(4, -2.0, move_ah=0.5)
        for _ in range(30):
            cell.run(6, -2.0, move_ah=0.08)
            cell.run(7, 2.0, move_ah=0.08)
        cell.discharge()
        truth["lab_shallow"].append(cell.counters[1] - cell.counters[0] - start)
    save("lab_shallow", cell)

    cell = Cell()
    truth["lab_drive"] = []
    for number in range(1, 5):
        cell.cycle = number
        cell.charge()
        truth["lab_drive"].append(drive(cell))
    save("lab_drive", cell)
    save("lab_drive_bare", cell, omit=CYCLE)

    cell = Cell()
    truth["lab_pulses"] = []
    for number in range(1, 3):
        cell.cycle = number
        cell.charge()
        while cell.rows[-1][5] > LOWER:
            cell.run(4, -2.0, seconds=360.0, until_v=LOWER, early=(1.0, 10.0, 30.0))
            cell.run(5, 0.0, seconds=1200.0)
            if cell.rows[-21][5] <= LOWER:
                break
    save("lab_pulses", cell)

    cell = Cell()
    truth["lab_daily"] = []
    for number in range(1, 4):
        cell.cycle = number
        cell.charge(0.2)
        truth["lab_daily"].append(cell.discharge(0.2))
    save("lab_daily", cell, daily=True)
    save("lab_whole", cell)

    for every in (300.0, 600.0):
        cell = Cell(every=every)
        truth[f"lab_every_{every:.0f}"] = []
        for number in range(1, 4):
            cell.cycle = number
            cell.charge()
            cell.run(4, -2.0, until_v=LOWER)
            truth[f"lab_every_{every:.0f}"].append(cell.counters[1] - sum(
                truth[f"lab_every_{every:.0f}"]))  # fmt: skip
            cell.run(5, 0.0, seconds=600.0)
        save(f"lab_every_{every:.0f}", cell, omit=COUNTERS)

    cell = Cell()
    for number in range(1, 4):
        cell.cycle = number
        cell.charge()
        cell.run(3, 0.0, seconds=3600.0, every=110.0)
        cell.run(4, -4.0, until_v=LOWER, every=1.0)
        cell.run(5, 0.0, seconds=3600.0, every=110.0)
    save("lab_irregular", cell)
    rows = np.array(cell.rows)
    rows = rows[rows[:, 2] == 2]
    heat = (rows[1:, 10] + rows[:-1, 10]) / 2.0 * np.diff(rows[:, 0])
    truth["heat"] = [float(heat.sum() / (rows[-1, 0] - rows[0, 0])), float(rows[:, 10].mean())]

    cell = Cell()
    truth["lab_two_rates"] = []
    for number in range(1, 16):
        cell.cycle, cell.capacity_ah = number, 2.0 - 0.004 * number
        cell.charge()
        truth["lab_two_rates"].append(cell.discharge(0.2 if number in (7, 8, 15) else 2.0))
    save("lab_two_rates", cell)

    cell = Cell()
    for number in range(1, 4):
        cell.cycle = number
        cell.charge()
        cell.discharge()
    save("odd_label", cell)

    profiles = []
    for name, nominal in (("lab", 2.0), ("odd", 0.5)):
        path = folder / f"{name}.toml"
        path.write_text(
            PROFILE.format(name=name, nominal=nominal, lower=LOWER, upper=UPPER, cutoff=CUTOFF)
        )
        profiles.append(f"--equipment_profile={path}")
    ran = run(folder, files, *profiles)
    assert ran.status == 0, ran.err
    success, counts = models.build(f"duckdb:{ran.warehouse}")
    assert success, counts
    return Made(ran, truth)


def test_a_half_is_not_taken_for_a_whole(made: Made) -> None:
    cycles = made.cycles("lab_partial", "kind, is_complete, is_valid, capacity_ah, depth")
    assert len(cycles) == 20
    assert {row[:4] for row in cycles} == {("charge_partial", False, False, None)}
    assert [row[4] for row in cycles] == pytest.approx([0.5] * 20, abs=0.01)
    moved = made.life("lab_partial", "throughput_ah, equivalent_full_cycles, capacity_ah")
    assert moved[1] == pytest.approx(moved[0] / 4.0)
    assert moved[1] == pytest.approx(10.0, rel=0.01)
    assert moved[2] is None


def test_what_a_cycle_spans_is_not_judged_without_limits(made: Made) -> None:
    for cell in ("any_partial", "any_unheld"):
        cycles = made.cycles(cell, "kind, is_complete, is_valid, capacity_ah, depth")
        assert set(cycles) == {("unknown", None, False, None, None)}
        reasons = made.cycles(cell, "DISTINCT kind_reason, invalid_reason, cycle_number")
        assert all("limit not known" in str(row[0]) for row in reasons)
        life = made.life(cell, "nominal_capacity_ah, equivalent_full_cycles, soh_nominal, doubts")
        assert life == (None, None, None, ["no_valid_cycle", "limits_not_known"])


def test_full_cycles_among_partial_ones_are_the_check_ups(made: Made) -> None:
    cycles = made.cycles("any_checked", "cycle_number, kind, is_valid, capacity_ah")
    valid = [row for row in cycles if row[2]]
    assert [row[:2] for row in valid] == [(1, "check_up"), (26, "check_up"), (51, "check_up")]
    assert [row[3] for row in valid] == pytest.approx(made.truth["any_checked"], rel=1e-4)
    assert {row[1] for row in cycles if not row[2]} == {"charge_partial"}
    # The first check-up alone is the initial capacity: the next one comes 25 cycles later.
    life = made.life("any_checked", "initial_capacity_ah, capacity_ah, limits_reason")
    assert life[:2] == pytest.approx(
        (made.truth["any_checked"][0], made.truth["any_checked"][-1]), rel=1e-4
    )
    assert "highest voltage at which a charge was held" in str(life[2])


def test_a_charge_without_a_hold_is_checked_for_being_full(made: Made) -> None:
    cycles = made.cycles("lab_unheld", "cycle_number, kind, is_valid, invalid_reason")
    assert not any(row[2] for row in cycles)
    assert {row[1] for row in cycles if row[0] % 2} == {"charge_partial"}  # type: ignore[operator]
    assert "cut-off is 0.1 A" in str(cycles[1][3])
    assert made.life("lab_unheld", "eol_80_nominal_cycle, status") == (None, "unknown")


@pytest.mark.parametrize("cell", ["lab_first_out", "lab_first_out_bare"])
def test_half_a_discharge_first(made: Made, cell: str) -> None:
    cycles = made.cycles(cell, "is_valid, capacity_ah, discharge_ah")
    valid = [row[1] for row in cycles if row[0]]
    assert valid == pytest.approx(made.truth["lab_first_out"][1:], rel=1e-4)
    assert cycles[0][:2] == (False, None)
    assert cycles[0][2] == pytest.approx(made.truth["lab_first_out"][0], rel=1e-3)


def test_several_swings_in_one_cycle_are_kept_beside(made: Made) -> None:
    cycles = made.cycles("lab_several", "kind, is_valid, swings, discharge_ah")
    assert [row[:3] for row in cycles] == [("several", False, 6)] * 2 + [("full", True, 2)] * 3
    assert cycles[0][3] > 5.5  # type: ignore[operator]
    swings = made.ran.sql(
        """SELECT test_cycle, net_ah, is_full FROM battery_swings
        WHERE equipment_id = 'lab_several' AND direction = 'discharge' ORDER BY swing_number"""
    )
    assert [row[0] for row in swings] == [1, 1, 1, 2, 2, 2, 3, 4, 5]
    assert [row[1] for row in swings] == pytest.approx(made.truth["lab_several"], rel=1e-4)
    assert all(row[2] for row in swings)
    soh = made.ran.sql(
        "SELECT max(soh_nominal) FROM battery_health WHERE equipment_id = 'lab_several'"
    )
    assert soh[0][0] <= 1.0


@pytest.mark.parametrize("cell", ["lab_drive", "lab_drive_bare", "lab_shallow"])
def test_what_flows_back_is_not_capacity(made: Made, cell: str) -> None:
    truth = made.truth[cell.removesuffix("_bare")]
    cycles = made.cycles(cell, "kind, is_valid, capacity_ah, discharge_ah")
    assert [row[:2] for row in cycles] == [("drive", True)] * len(truth)
    assert [row[2] for row in cycles] == pytest.approx(truth, rel=2e-3)
    assert all(row[3] > 1.1 * row[2] for row in cycles)  # type: ignore[operator]


def test_a_pulse_test_is_told_from_a_cycle(made: Made) -> None:
    cycles = made.cycles("lab_pulses", "kind, is_complete, is_valid, kind_reason")
    assert [row[:3] for row in cycles] == [("pulse", True, False)] * 2
    assert "rests" in str(cycles[0][3])


def test_daily_files_of_one_test_are_one_test(made: Made) -> None:
    assert made.ran.sql(
        "SELECT count(DISTINCT test_id) > 1 FROM readings WHERE equipment_id = 'lab_daily'"
    ) == [(True,)]
    columns = "cycle_number, test_cycle, kind, is_valid, capacity_ah, charge_ah, discharge_ah"
    daily, whole = made.cycles("lab_daily", columns), made.cycles("lab_whole", columns)
    assert [row[:4] for row in daily] == [row[:4] for row in whole]
    for one, other in zip(daily, whole, strict=True):
        assert one[4:] == pytest.approx(other[4:], rel=1e-9)
    assert [row[4] for row in daily] == pytest.approx(made.truth["lab_daily"], rel=1e-4)


@pytest.mark.parametrize("cell", ["lab_every_300", "lab_every_600"])
def test_seldom_logging_without_counters(made: Made, cell: str) -> None:
    cycles = made.cycles(cell, "is_valid, capacity_ah, gaps")
    assert [row[0] for row in cycles] == [True] * 3
    assert [row[1] for row in cycles] == pytest.approx(made.truth[cell], rel=5e-3)


def test_the_mean_temperature_is_weighted_by_time(made: Made) -> None:
    by_time, by_reading = made.truth["heat"]
    found = made.cycles("lab_irregular", "temperature_mean_c")[1][0]
    assert abs(by_time - by_reading) > 0.5
    assert found == pytest.approx(by_time, abs=0.05)


def test_like_is_compared_with_like(made: Made) -> None:
    rows = made.ran.sql(
        """SELECT is_reference, kind, discharge_median_ah, capacity_ah, reference_reason
        FROM battery_health WHERE equipment_id = 'lab_two_rates' ORDER BY cycle_number"""
    )
    slow = [number for number, row in enumerate(rows, start=1) if not row[0]]
    assert slow == [7, 8, 15]
    assert {rows[number - 1][1] for number in slow} == {"check_up"}
    assert "compared are cycles near 2.0 A" in rows[6][4]
    medians = [row[2] for row in rows if row[0]]
    assert medians == sorted(medians, reverse=True)
    assert [row[3] for row in rows] == pytest.approx(made.truth["lab_two_rates"], rel=1e-4)
    # Corrected to 2 A, the slow ones lie on the line of the others.
    corrected = [
        row[0]
        for row in made.ran.sql(
            """SELECT capacity_at_reference_ah FROM battery_health
            WHERE equipment_id = 'lab_two_rates' ORDER BY cycle_number"""
        )
    ]
    assert corrected[6] == pytest.approx((rows[5][3] + rows[8][3]) / 2.0, rel=5e-3)


def test_a_cell_out_of_range_is_marked_and_stops_no_other(made: Made) -> None:
    assert made.life("odd_label", "doubts") == (["capacity_out_of_range"],)
    assert made.life("odd_label", "soh_nominal")[0] > 3.0  # type: ignore[operator]
    assert made.life("lab_drive", "doubts") == ([],)
    assert made.ran.sql("SELECT count(*) FROM battery_lifetime WHERE capacity_ah IS NOT NULL") > [
        (8,)
    ]
