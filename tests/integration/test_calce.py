"""A real cell's 25 workbooks through the job and the models, against the reference figures."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import pytest

from pipeline import models
from tests.calce import calce_dir
from tests.running import Ran, run, same_tables
from tests.warehouses import differences

pytestmark = pytest.mark.calce


@pytest.fixture(scope="module")
def archive() -> Path:
    return calce_dir() / "CS2_35.zip"


@pytest.fixture(scope="module")
def cell(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    ran = run(tmp_path_factory.mktemp("calce"), archive)
    assert ran.status == 0, ran.err
    success, counts = models.build(f"duckdb:{ran.warehouse}", unit_tests=True)
    assert success, counts
    assert not counts["WARN"], list(models.warned(f"duckdb:{ran.warehouse}"))
    return ran


def test_reading(cell: Ran, archive: Path) -> None:
    assert cell.account() == {
        "read": 266_914,
        "written": 260_931,
        "duplicates": 5_983,
        "dead_letters": 0,
    }
    assert len(cell.files()) < 1000
    kept = next((cell.lake / "raw").rglob("CS2_35.zip"))
    assert kept.read_bytes() == archive.read_bytes()


def test_totals(cell: Ran) -> None:
    cycles, complete, *totals = cell.sql(
        """SELECT count(*), count(*) FILTER (is_complete), sum(charge_ah), sum(discharge_ah),
        sum(charge_wh), sum(discharge_wh) FROM battery_cycles"""
    )[0]
    assert (cycles, complete) == (886, 880)
    assert totals == pytest.approx([777.62, 776.95, 3116.57, 2815.15], rel=1e-3)
    capacities = cell.sql(
        "SELECT discharge_ah FROM battery_cycles WHERE is_complete ORDER BY cycle_number"
    )
    # The reference gives three decimals.
    assert capacities[0][0] == pytest.approx(1.138, abs=5e-4)
    assert capacities[-1][0] == pytest.approx(0.304, abs=5e-4)


def test_no_witness_disagrees(cell: Ran) -> None:
    assert cell.sql("SELECT DISTINCT disagreements FROM battery_cycles") == [([],)]
    assert cell.sql("SELECT DISTINCT disagreements FROM dim_test") == [([],)]
    # Counters and integral: within 2 %, the discharge of the complete cycles within 0.01 %.
    assert cell.sql(
        """SELECT count(*) FROM battery_cycles
        WHERE abs(charge_agreement - 1) > 0.02
            OR (is_complete AND abs(discharge_agreement - 1) > 1e-4)"""
    ) == [(0,)]
    assert cell.sql("SELECT count(*), sum(gaps) FROM battery_cycles WHERE gaps > 0") == [(0, None)]
    # The wall clock runs ahead of the test clock by up to 65 s in a file.
    ahead = cell.sql("SELECT max(wall_duration_s - clock_duration_s) FROM dim_test")[0][0]
    assert 60 < ahead < 70


def test_lifetime(cell: Ran) -> None:
    row = cell.sql(
        """SELECT eol_80_nominal_cycle, eol_70_nominal_cycle, eol_80_initial_cycle, knee_cycle,
        knee_onset_cycle
        FROM battery_lifetime"""
    )
    assert row[0][:3] == (596, 674, 546)
    # onset and point of a double Bacon-Watts fit down to 40 % of the first capacity
    assert row[0][3] == pytest.approx(630, abs=5)
    assert row[0][4] == pytest.approx(440, abs=20)
    throughput = cell.sql(
        """SELECT eol_80_initial_equivalent_full_cycles, eol_80_nominal_equivalent_full_cycles,
        eol_70_nominal_equivalent_full_cycles FROM battery_lifetime"""
    )[0]
    assert list(throughput) == sorted(throughput)
    assert 494 <= throughput[0] <= throughput[2] <= 597


def test_efficiencies_and_resistance(cell: Ran) -> None:
    coulombic, energy = cell.sql(
        """SELECT median(coulombic_efficiency), median(energy_efficiency) FROM battery_cycles
        WHERE is_valid"""
    )[0]
    assert 0.9986 <= coulombic <= 1.0013
    assert 0.904 * 0.999 <= energy <= 0.910 * 1.001
    # The first discharge after a full charge, and the last one of the cell's life, in which the
    # cycler logs a change of 0.2 V (0.182 ohm) at 6.9 s.
    resistances = [row[0] for row in cell.sql(
        "SELECT dc_resistance_30s_ohm FROM battery_cycles WHERE is_complete ORDER BY cycle_number"
    )]  # fmt: skip
    assert resistances[1] == pytest.approx(0.151, abs=5e-4)
    # Of the raw rows, a cubic through the readings at 6.9, 36.9, 66.9 and 96.9 s gives 0.2335 there.
    assert resistances[-1] == pytest.approx(0.234, abs=1e-3)
    known = [row for row in resistances if row is not None]
    assert len(known) > 0.95 * len(resistances)
    assert min(known) > 0.13
    reasons = cell.sql(
        "SELECT DISTINCT dc_resistance_reason FROM battery_cycles "
        "WHERE is_complete AND dc_resistance_30s_ohm IS NULL"
    )
    assert reasons == [("sampling: readings around 30 s too far apart",)]


def test_incremental_capacity(cell: Ran) -> None:
    """Against scipy's Savitzky-Golay filter on evenly spaced charge, and PyProBE's LEAN.

    On the same readings: the charge of cycle 10 5.92 Ah/V at 3.891 V (LEAN with bins of 2 and 3 mV
    5.84 and 5.82), that of cycle 700 2.53 at 3.952 (2.54 and 2.52), a plateau so flat that its
    voltage is known to no more than 20 mV; the discharge of cycle 10 3.54 at 3.61 (3.57 and 3.53),
    flat too (16 mV).
    """
    peaks = {
        (number, direction): row
        for number, direction, *row in cell.sql(
            """SELECT cycle_number, direction, dq_dv_ah_per_v, voltage_v, dq_dv_error_ah_per_v
            FROM battery_ica_peaks WHERE is_main AND cycle_number IN (10, 700)"""
        )
    }
    for key, height, volts, within in (
        ((10, "charge"), 5.88, 3.891, 0.003),
        ((700, "charge"), 2.53, 3.952, 0.006),
        ((10, "discharge"), 3.54, 3.610, 0.008),
    ):
        assert peaks[key][0] == pytest.approx(height, rel=0.02)
        assert peaks[key][1] == pytest.approx(volts, abs=within)
        assert peaks[key][2] < 0.03 * height
    # Every charge and discharge that is long enough has a curve without holes.
    curves = cell.sql(
        """SELECT direction, count(*), count(*) FILTER (points > 45 AND known_points = points)
        FROM battery_ica_stages WHERE charge_ah > 0.24 GROUP BY 1 ORDER BY 1"""
    )
    assert [row[0] for row in curves] == ["charge", "discharge"]
    assert all(stages == whole > 800 for _, stages, whole in curves)


def test_every_cycle_against_the_reference(cell: Ran) -> None:
    with (calce_dir() / "CS2_35_per_cycle.csv").open(newline="") as file:
        wanted = list(csv.DictReader(file))
    found = cell.sql(
        """SELECT started_at, charge_ah, discharge_ah, charge_wh, discharge_wh, is_complete
        FROM battery_cycles ORDER BY cycle_number"""
    )
    assert len(found) == len(wanted) == 886
    for number, (row, reference) in enumerate(zip(found, wanted, strict=True), start=1):
        assert str(row[0])[:19] == reference["t0"], number
        expected = [float(reference[name]) for name in ("qc", "qd", "ec", "ed")]
        assert row[1:5] == pytest.approx(expected, rel=1e-3, abs=1e-5), number
        assert row[5] == (reference["complete"] == "True"), number


def test_the_stream_and_the_models_agree_on_time_deltas(cell: Ran) -> None:
    assert cell.sql(
        """SELECT count(*), max(abs(r.time_delta_s - f.time_delta_s)),
        count(*) FILTER ((r.time_delta_s IS NULL) <> (f.time_delta_s IS NULL))
        FROM readings r JOIN battery_features f USING (reading_id)"""
    ) == [(260_931, pytest.approx(0.0, abs=1e-9), 0)]


def test_the_same_cell_in_two_runs_gives_the_same_models(
    cell: Ran, tmp_path: Path, unpacked: Path
) -> None:
    # The two uploads of one test are in different halves.
    names = sorted(path.name for path in unpacked.iterdir())
    halves = [set(names[:15]) | {"CS2_35_2_4_11.xlsx"}, set(names[15:]) - {"CS2_35_2_4_11.xlsx"}]
    assert "CS2_35_2_10_11.xlsx" in halves[1]
    folders = []
    for place, half in enumerate(halves):
        folder = tmp_path / f"half{place}" / "CS2_35"
        folder.mkdir(parents=True)
        for name in half:
            (folder / name).hardlink_to(unpacked / name)
        folders.append(folder)
    runs = []
    for place, order in enumerate((folders, folders[::-1])):
        for folder in order:
            ran = run(tmp_path / f"run{place}", folder)
            assert ran.status == 0
        runs.append(ran)
    plain = "SELECT * EXCLUDE (time_delta_s, quality_flags, ingested_at) FROM readings ORDER BY 1"
    assert runs[0].sql(plain) == runs[1].sql(plain) == cell.sql(plain)
    same_tables(*runs, names=["readings"])
    success, counts = models.build(f"duckdb:{runs[0].warehouse}", data_tests=False)
    assert success, counts
    for model in ("battery_cycles", "battery_lifetime", "battery_health"):
        query = f"SELECT * FROM {model} ORDER BY ALL"
        # The last digits of a sum depend on the order of addition.
        assert differences(runs[0].rows(query), cell.rows(query)) == [], model


@pytest.fixture(scope="module")
def unpacked(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    return folder / "CS2_35"
