"""Exports of a dozen cyclers' kinds through one job and the models: each gives what is right."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline import models
from tests.running import Ran, run

DATA = Path(__file__).parents[1] / "data" / "cyclers"
TOLERANCE = 0.002

# Figures of a cycle in Ah. A pair is a range: where the rows leave open what flowed between two
# of them, either end is right.
Figure = float | tuple[float, float]


@dataclass(frozen=True)
class Made:
    """What one job and the models made of all files."""

    ran: Ran

    def readings(self, file: str, columns: str, where: str = "true") -> list[tuple[Any, ...]]:
        """Columns of a file's readings, in the file's order as far as the columns give it."""
        return self.ran.sql(
            f"SELECT {columns} FROM readings WHERE source_file LIKE '%{file}' AND {where}"
        )

    def one(self, file: str, expression: str, where: str = "true") -> Any:
        """An aggregate over a file's readings."""
        return self.readings(file, expression, where)[0][0]

    def _of(self, table: str, file: str, columns: str, order: str) -> list[tuple[Any, ...]]:
        return self.ran.sql(
            f"""SELECT {columns} FROM {table}
            WHERE test_key IN (
                SELECT test_key FROM battery_features WHERE source_file LIKE '%{file}'
            ) ORDER BY {order}"""
        )

    def cycles(self, file: str, columns: str) -> list[tuple[Any, ...]]:
        """Columns of the cycles of a file's tests in which anything flowed."""
        cycles = self._of(
            "battery_cycles", file, f"{columns}, charge_ah + discharge_ah > 0", "cycle_number"
        )
        return [cycle[:-1] for cycle in cycles if cycle[-1]]

    def steps(self, file: str, columns: str) -> list[tuple[Any, ...]]:
        """Columns of the steps of a file's tests."""
        return self._of("battery_steps", file, columns, "first_reading_seq")

    def flags(self, file: str) -> set[str]:
        """All flags of a file's readings."""
        return {flag for (flags,) in self.readings(file, "quality_flags") for flag in flags}

    def refusals(self, file: str) -> list[tuple[Any, ...]]:
        """Why rows of a file were refused."""
        return self.ran.sql(
            f"""SELECT error_type, error_message, count(*) FROM dead_letters
            WHERE source_file LIKE '%{file}' GROUP BY ALL"""
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("cyclers")
    for kind in ("silent", "refused"):
        shutil.copytree(DATA / kind, folder / "in" / kind)
    ran = run(folder, folder / "in")
    models.build(f"duckdb:{ran.warehouse}", data_tests=False)
    return Made(ran)


Check = Callable[[Made, str], None]


@dataclass(frozen=True)
class Right:
    """What is right for a file.

    Attributes:
        file: path below tests/data/cyclers, or its end.
        rows: readings that it holds.
        cycles: charge and discharge of each cycle in Ah; None where it isn't looked at.
        first: time of the first reading, UTC, to the second; None where the file has no date.
        last: time of the last one.
        cell: the equipment; None where more than one name would do.
        steps: number of steps of the tests.
        check: what else is to be seen.
    """

    file: str
    rows: int
    cycles: list[tuple[Figure, Figure]] | None = None
    first: str | None = None
    last: str | None = None
    cell: str | None = None
    steps: int | None = None
    check: Check | None = None


def near(value: float, wanted: Figure) -> bool:
    low, high = wanted if isinstance(wanted, tuple) else (wanted, wanted)
    # 1e-6 Ah: a figure of nought may carry what flowed between two rows a second apart
    return low * (1 - TOLERANCE) - 1e-6 <= value <= high * (1 + TOLERANCE) + 1e-6


def minute_clock(made: Made, file: str) -> None:
    assert made.one(file, "max(test_time_s) - min(test_time_s)") == pytest.approx(14403, abs=0.01)


def thousands(made: Made, file: str) -> None:
    assert made.readings(file, "min(voltage_v), max(voltage_v), max(current_a)") == [
        pytest.approx((3.6, 4.2, 1.5), abs=1e-9)
    ]
    assert made.one(file, "max(test_time_s)") == pytest.approx(7260)


def sign_inverted(made: Made, file: str) -> None:
    for charge, discharge, efficiency in made.cycles(
        file, "charge_mean_voltage_v, discharge_mean_voltage_v, energy_efficiency"
    ):
        assert charge == pytest.approx(3.50, rel=TOLERANCE)
        assert discharge == pytest.approx(3.15, rel=TOLERANCE)
        assert efficiency == pytest.approx(0.90, rel=TOLERANCE)
    assert [step for (step,) in made.steps(file, "direction")] == [
        "charge", "rest", "discharge", "rest",
    ] * 2  # fmt: skip


def net_discharge(made: Made, file: str) -> None:
    # the first row discharges: 4.0820 V falling
    assert made.one(file, "max(current_a)", "voltage_v > 4.08 AND test_time_s = 60") < 0


def same_second(made: Made, file: str) -> None:
    assert made.ran.sql(
        f"SELECT count(DISTINCT reading_id) FROM battery_features WHERE source_file LIKE '%{file}'"
    ) == [(600,)]


def counter_dips(made: Made, file: str) -> None:
    assert "counter_reset" not in made.flags(file)
    assert "counter_dip" in made.flags(file)


def no_gap(made: Made, file: str) -> None:
    assert "gap" not in made.flags(file)


def clock_set_back(made: Made, file: str) -> None:
    backwards = made.ran.sql(
        f"""SELECT count(*) FROM (
            SELECT recorded_at < lag(recorded_at) OVER (ORDER BY record_index) AS is_back
            FROM readings WHERE source_file LIKE '%{file}'
        ) WHERE is_back"""
    )
    assert backwards == [(0,)]
    assert "clock_disagrees" in made.flags(file)
    assert str(made.one(file, "max(recorded_at)::VARCHAR"))[:19] in (
        "2024-11-03 03:00:03",  # as the wall clock at the end says
        "2024-11-03 04:00:03",  # as long after the start as the test clock says
    )


def pulse(made: Made, file: str) -> None:
    assert made.readings(file, "min(test_time_s), max(test_time_s)") == [
        pytest.approx((769267.24, 769273.23), abs=1e-6)
    ]
    assert made.cycles(file, "test_cycle") == [(37,)]


def all_of_a_cell(made: Made, file: str) -> None:
    assert made.readings(file, "DISTINCT equipment_type") == [("battery_cell",)]


def milliseconds(made: Made, file: str) -> None:
    assert made.readings(file, "min(test_time_s), max(test_time_s)") == [
        pytest.approx((0, 7201), abs=0.01)
    ]


def has_ica(made: Made, file: str) -> None:
    cells = f"(SELECT equipment_id FROM readings WHERE source_file LIKE '%{file}')"
    assert made.ran.sql(f"SELECT count(*) > 0 FROM battery_ica WHERE equipment_id IN {cells}") == [
        (True,)
    ]
    for charge, discharge in made.cycles(file, "charge_wh, discharge_wh"):
        assert charge == pytest.approx(3.5, rel=TOLERANCE / 2)
        assert discharge == pytest.approx(3.5, rel=TOLERANCE / 2)


def statistics_are_no_readings(made: Made, file: str) -> None:
    assert made.readings("StatisticByCycle.CSV", "count(*)") == [(0,)]


def one_test_of_both_parts(made: Made, file: str) -> None:
    parts = "CellY/CellY_Channel_7_Wb__.csv"  # in LIKE an underscore stands for any one character
    assert made.readings(parts, "count(*), count(DISTINCT test_id)") == [(360, 1)]


def absolute_time(made: Made, file: str) -> None:
    assert made.readings(file, "min(voltage_v), max(voltage_v), min(current_a)") == [
        pytest.approx((3.6, 3.69, 0.1005))
    ]


def milliamperes(made: Made, file: str) -> None:
    assert made.readings(file, "min(current_a), max(current_a), min(voltage_v)") == [
        pytest.approx((-1, 1, 3))
    ]


def ten_second_ampere(made: Made, file: str) -> None:
    assert made.readings(file, "max(current_a), min(voltage_v), max(voltage_v)") == [
        pytest.approx((1, 3.6, 3.79))
    ]


def discharge_of_nasa(made: Made, file: str) -> None:
    assert made.readings(
        file, "min(voltage_v), max(voltage_v), min(abs(current_a)), max(temperature_c)"
    ) == [pytest.approx((3.91, 4.1, 2, 25.9))]


def to_the_minute(made: Made, file: str) -> None:
    span = "epoch(max(recorded_at)) - epoch(min(recorded_at))"
    assert 0 <= made.one(file, span) <= 60
    assert made.cycles(file, "charge_ah") == [(pytest.approx(40 / 3600, rel=TOLERANCE),)]


FULL = (1.0, 1.0)

RIGHT = [
    Right("silent/01_maccor_unsigned_state.txt", 183, [FULL], "2024-03-01 09:00:00",
          "2024-03-01 12:00:02", "01_maccor_unsigned_state", 3),
    Right("silent/02_maccor_minute_clock.txt", 244, [FULL] * 2, "2024-03-01 09:00:00",
          "2024-03-01 13:00:03", "02_maccor_minute_clock", 4, minute_clock),
    Right("silent/03_neware_step_clock.csv", 488, [FULL] * 2, "2024-03-01 09:00:00",
          "2024-03-01 17:00:00", "03_neware_step_clock", 8),
    Right("04_pec_two_cells/Test101.csv", 122, [(2.0, 2.0)], "2024-01-05 08:00:00",
          "2024-01-05 10:00:01", "CELL_A", 2),
    Right("04_pec_two_cells/Test102.csv", 122, [FULL], "2024-01-09 08:00:00",
          "2024-01-09 10:00:01", "CELL_B", 2),
    Right("CellX/CellX_Channel_7_Wb_1.csv", 360, [FULL] * 3, "2024-03-01 09:01:00",
          "2024-03-01 15:00:00", "CellX", 6, statistics_are_no_readings),
    Right("silent/06_microampere_utf8.csv", 122, [(0.0005, 0.0005)], "2024-03-01 09:00:00",
          "2024-03-01 11:01:00", "06_microampere_utf8", 2),
    Right("silent/06_microampere_gbk.csv", 122, [(0.0005, 0.0005)], "2024-03-01 09:00:00",
          "2024-03-01 11:01:00", "06_microampere_gbk", 2),
    # no counter: the minute in which the direction turns can be counted to either
    Right("silent/07_thousands_separator.csv", 122, [((1.5, 1.525), (1.5, 1.525))],
          cell="07_thousands_separator", steps=2, check=thousands),
    Right("silent/08_sign_inverted.bdf.csv", 480, [FULL] * 2, cell="08_sign_inverted", steps=8,
          check=sign_inverted),
    Right("silent/09_pybamm_net_discharge.csv", 240, [FULL] * 2, cell="09_pybamm_net_discharge",
          check=net_discharge),
    Right("silent/10_same_second_other_rows.csv", 600, cell="10_same_second_other_rows", steps=6,
          check=same_second),
    Right("silent/11_counter_dips.csv", 242, [((0.9735, 0.975), 1.0)], "2024-03-01 09:00:01",
          "2024-03-01 11:00:02", "11_counter_dips", 2, counter_dips),
    Right("silent/12_sparse_log.csv", 302, [FULL], "2024-03-01 09:00:00", "2024-03-03 11:00:01",
          "12_sparse_log", 2, no_gap),
    Right("silent/13_clock_set_back.txt", 244, [FULL] * 2, "2024-11-03 00:00:00", None,
          "13_clock_set_back", 4, clock_set_back),
    Right("silent/14_test_sec_pulse.052", 600, [(0.0, 0.00805)], "2024-03-01 09:00:00",
          "2024-03-01 11:00:05", check=pulse),
    Right("silent/15_impedance_rows.csv", 132, [FULL], cell="15_impedance_rows",
          check=all_of_a_cell),
    Right("silent/15_frequency_zero.csv", 121, [FULL], cell="15_frequency_zero", steps=2,
          check=all_of_a_cell),
    Right("silent/16_date_beside_timestamp.csv", 61, [(1.0, 0.0)], "2024-03-01 23:30:00",
          "2024-03-02 00:30:00", "16_date_beside_timestamp", 1),
    Right("silent/16_date_and_time.csv", 61, [(1.0, 0.0)], "2024-03-01 23:30:00",
          "2024-03-02 00:30:00", "16_date_and_time", 1),
    Right("silent/17_dashes_dmy.csv", 481, [(1.0, 0.0)], "2024-04-12 20:00:00",
          "2024-04-13 04:00:00", "17_dashes_dmy", 1),
    Right("silent/18_ms_under_seconds.bdf.csv", 122, [FULL], "2024-03-01 09:00:00",
          "2024-03-01 11:00:01", "18_ms_under_seconds", 2, milliseconds),
    Right("silent/19_old_bdf_names.bdf.csv", 244, [FULL] * 2, "2024-03-01 09:00:00",
          "2024-03-01 13:00:03", "19_old_bdf_names", 4),
    Right("silent/20_neware_flat.csv", 122, [FULL], "2024-03-01 09:00:00", "2024-03-01 11:00:00",
          "20_neware_flat", 2),
    Right("silent/21_digatron.csv", 1200, None, "2024-03-01 09:00:00", "2024-03-01 09:01:59",
          steps=24),
    Right("silent/22_bdf_within_step_counter.bdf.csv", 488, [FULL] * 2, "2024-03-01 09:00:00",
          "2024-03-01 17:00:07", "22_bdf_within_step_counter", 8, has_ica),
    Right("CellY/CellY_Channel_7_Wb_1.csv", 180, [FULL] * 3, "2024-03-01 09:01:00",
          "2024-03-01 12:00:00", "CellY", 6, one_test_of_both_parts),
    Right("CellY/CellY_Channel_7_Wb_2.csv", 180, [FULL] * 3, "2024-03-01 12:01:00",
          "2024-03-01 15:00:00", "CellY", 6, one_test_of_both_parts),
    Right("refused/biologic.mpt", 122, [FULL], cell="biologic", steps=2, check=milliamperes),
    Right("refused/biologic_absolute.mpt", 10, None, "2024-03-01 09:00:00", "2024-03-01 09:01:30",
          "biologic_absolute", 1, absolute_time),
    Right("refused/novonix.csv", 61, [(1.0, 0.0)], "2024-03-01 09:00:00", "2024-03-01 10:00:00",
          steps=1),
    Right("refused/novonix_long_protocol.csv", 61, [(1.0, 0.0)], "2024-03-01 09:00:00",
          "2024-03-01 10:00:00", steps=1),
    Right("refused/basytec.txt", 61, [(1.0, 0.0)], "2024-03-01 09:00:00", "2024-03-01 10:00:00",
          steps=1),
    Right("refused/neware_layered.csv", 122, [FULL], "2024-03-01 09:00:00", "2024-03-01 11:00:00",
          "neware_layered", 2),
    Right("refused/chinese.csv", 20, [(0.05278, 0.0)], "2024-03-01 09:00:00",
          "2024-03-01 09:03:10", "chinese", 1, ten_second_ampere),
    Right("refused/chinese_gbk.csv", 20, [(0.05278, 0.0)], "2024-03-01 09:00:00",
          "2024-03-01 09:03:10", "chinese_gbk", 1, ten_second_ampere),
    # no counter: the ten seconds from rest to charge can be counted or not
    Right("refused/gbk_steps.csv", 20, [((170 / 3600, 180 / 3600), 0.0)], "2024-03-01 09:00:00",
          "2024-03-01 09:03:10", "gbk_steps", 2, ten_second_ampere),
    Right("refused/nasa.csv", 20, [(0.0, 2 * 190 / 3600)], cell="nasa", steps=1,
          check=discharge_of_nasa),
    Right("refused/stamp_ampm_ms.csv", 5, [(40 / 3600, 0.0)], "2019-03-14 13:05:30",
          "2019-03-14 13:06:10", "stamp_ampm_ms", 1),
    Right("refused/stamp_ampm_short.csv", 5, None, None, None, "stamp_ampm_short", 1,
          to_the_minute),
    Right("refused/stamp_dots.csv", 5, [(40 / 3600, 0.0)], "2019-03-14 13:05:30",
          "2019-03-14 13:06:10", "stamp_dots", 1),
    Right("refused/stamp_mon_ms.csv", 5, [(40 / 3600, 0.0)], "2019-03-14 13:05:30",
          "2019-03-14 13:06:10", "stamp_mon_ms", 1),
    Right("refused/stamp_year_first_ampm.csv", 5, [(40 / 3600, 0.0)], "2019-03-14 13:05:30",
          "2019-03-14 13:06:10", "stamp_year_first_ampm", 1),
]  # fmt: skip


@pytest.mark.parametrize("right", RIGHT, ids=lambda right: right.file)
def test_an_export_gives_what_is_right(made: Made, right: Right) -> None:
    file = right.file
    assert made.one(file, "count(*)") == right.rows, made.refusals(file)
    cells = made.readings(file, "DISTINCT equipment_id")
    assert cells == [(right.cell,)] if right.cell else len(cells) == 1
    if right.first:
        assert str(made.one(file, "min(recorded_at)::VARCHAR"))[:19] == right.first
    if right.last:
        assert str(made.one(file, "max(recorded_at)::VARCHAR"))[:19] == right.last
    if right.cycles is not None:
        cycles = made.cycles(file, "charge_ah, discharge_ah")
        assert len(cycles) == len(right.cycles), cycles
        for (charge, discharge), (wanted_charge, wanted_discharge) in zip(
            cycles, right.cycles, strict=True
        ):
            assert near(charge, wanted_charge), cycles
            assert near(discharge, wanted_discharge), cycles
    if right.steps is not None:
        assert len(made.steps(file, "step_run")) == right.steps
    if right.check:
        right.check(made, file)


def test_every_file_is_looked_at() -> None:
    files = {
        str(path.relative_to(DATA))
        for kind in ("silent", "refused")
        for path in (DATA / kind).rglob("*")
        if path.is_file()
    }
    looked_at = {file for file in files if any(file.endswith(right.file) for right in RIGHT)}
    assert files - looked_at == {
        "silent/05_arbin_statistics/CellX/CellX_Channel_7_StatisticByCycle.CSV"
    }
