"""A real cell's reference figures, asked for in BigQuery's SQL of models built on BigQuery."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pipeline import models
from tests.calce import calce_dir
from tests.running import run
from tests.services.bigquery import BigQuery
from tests.services.fixtures import set_environment
from tests.warehouses import Dataset, job_rows

pytestmark = [
    pytest.mark.calce,
    pytest.mark.integration,
    pytest.mark.long,
    pytest.mark.timeout(1800),
]


@pytest.fixture(scope="module")
def cell(bigquery: BigQuery, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The whole cell: each reading once, and those of one workbook a second time."""
    ran = run(tmp_path_factory.mktemp("calce"), calce_dir() / "CS2_35.zip")
    assert ran.status == 0, ran.err
    dataset = Dataset(bigquery)
    dataset.load(job_rows(ran.warehouse))
    again = job_rows(ran.warehouse, "source_file LIKE '%CS2_35_10_15_10.xlsx'")["readings"]
    assert again.num_rows > 1000
    dataset.load({"readings": again})
    with pytest.MonkeyPatch.context() as patch:
        set_environment(patch, bigquery.environment)
        success, counts = models.build(dataset.uri, data_tests=False)
    assert success, counts
    return dataset


def test_every_reading_counts_once(cell: Dataset) -> None:
    assert cell.sql("SELECT count(*) FROM battery_cleaned") == [(260_931,)]
    assert cell.sql("SELECT count(*) > 262000 FROM battery_ts") == [(True,)]


def test_totals(cell: Dataset) -> None:
    cycles, complete, *totals = cell.sql(
        """SELECT count(*), countif(is_complete), sum(charge_ah), sum(discharge_ah),
        sum(charge_wh), sum(discharge_wh) FROM battery_cycles"""
    )[0]
    assert (cycles, complete) == (886, 880)
    assert totals == pytest.approx([777.62, 776.95, 3116.57, 2815.15], rel=1e-3)


def test_lifetime(cell: Dataset) -> None:
    (row,) = cell.sql(
        """SELECT eol_80_nominal_cycle, eol_70_nominal_cycle, eol_80_initial_cycle, knee_cycle,
        knee_onset_cycle
        FROM battery_lifetime"""
    )
    assert row[:3] == (596, 674, 546)
    # onset and point of a double Bacon-Watts fit down to 40 % of the first capacity
    assert row[3] == pytest.approx(630, abs=5)
    assert row[4] == pytest.approx(440, abs=20)


def test_efficiencies_and_resistance(cell: Dataset) -> None:
    coulombic, energy = cell.sql(
        """SELECT percentile_cont(coulombic_efficiency, 0.5) OVER (),
        percentile_cont(energy_efficiency, 0.5) OVER () FROM battery_cycles WHERE is_valid LIMIT 1"""
    )[0]
    assert 0.9986 <= coulombic <= 1.0013
    assert 0.904 * 0.999 <= energy <= 0.910 * 1.001
    resistances = [row[0] for row in cell.sql(
        "SELECT dc_resistance_30s_ohm FROM battery_cycles WHERE is_complete ORDER BY cycle_number"
    )]  # fmt: skip
    assert resistances[1] == pytest.approx(0.151, abs=5e-4)
    # Of the raw rows, a cubic through the readings at 6.9, 36.9, 66.9 and 96.9 s gives 0.2335 there.
    assert resistances[-1] == pytest.approx(0.234, abs=1e-3)


def test_incremental_capacity(cell: Dataset) -> None:
    peaks = cell.sql(
        """SELECT cycle_number, dq_dv_ah_per_v, voltage_v FROM battery_ica_peaks
        WHERE is_main AND direction = 'charge' AND cycle_number IN (10, 700) ORDER BY 1"""
    )
    assert [row[0] for row in peaks] == [10, 700]
    assert [row[1] for row in peaks] == pytest.approx([5.88, 2.53], rel=0.02)
    assert [row[2] for row in peaks] == pytest.approx([3.891, 3.952], abs=0.006)


def test_every_cycle_against_the_reference(cell: Dataset) -> None:
    reference: Path = calce_dir() / "CS2_35_per_cycle.csv"
    with reference.open(newline="") as file:
        wanted = list(csv.DictReader(file))
    found = cell.sql(
        """SELECT format_timestamp('%F %T', started_at, 'UTC'), charge_ah, discharge_ah,
        charge_wh, discharge_wh, is_complete FROM battery_cycles ORDER BY cycle_number"""
    )
    assert len(found) == len(wanted) == 886
    for number, (row, known) in enumerate(zip(found, wanted, strict=True), start=1):
        assert row[0] == known["t0"], number
        expected = [float(known[name]) for name in ("qc", "qd", "ec", "ed")]
        assert row[1:5] == pytest.approx(expected, rel=1e-3, abs=1e-5), number
        assert row[5] == (known["complete"] == "True"), number
