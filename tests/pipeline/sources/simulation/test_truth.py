"""What the simulation says is true is what its readings, without noise, show."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.sources.simulation import cell_model, truth
from pipeline.sources.simulation.chemistry import CHEMISTRIES
from pipeline.sources.simulation.config import CHEMISTRY_NAMES, PROTOCOL_NAMES, FleetConfig
from pipeline.sources.simulation.fleet import Fleet
from pipeline.sources.simulation.truth_peaks import peaks
from tests.pipeline.sources.simulation.reading import Columns, columns_of

UTC = dt.UTC


def one(**changes: Any) -> FleetConfig:
    return FleetConfig(**{"equipment": 1, "machines": 0, "noise": 0.0, "cycles": 4} | changes)


def rows_of(c: Columns, row: dict[str, Any]) -> slice:
    """Rows of a cycle or a swing, by its times; the row before the first one included."""
    us = c["recorded_at_us"]
    begins, ends = (round(row[name].timestamp() * 1e6) for name in ("begins_at", "ends_at"))
    return slice(max(int(np.searchsorted(us, begins, "right")) - 1, 0),
                 int(np.searchsorted(us, ends, "right")))  # fmt: skip


def moved(c: Columns, rows: slice, name: str) -> float:
    values = c[f"{name}_capacity_ah"][rows]
    opens = c["record_index"][rows.start] == 1
    return float(values[-1] - (0.0 if opens else values[0]))


@pytest.mark.parametrize("chemistry", CHEMISTRY_NAMES)
@pytest.mark.parametrize("protocol", PROTOCOL_NAMES)
def test_charges_and_capacities_are_those_of_the_readings(protocol: str, chemistry: str) -> None:
    extra: dict[str, Any] = {}
    if protocol in ("partial", "check_up", "pulse"):
        extra["reference_every"] = 3
    if protocol == "formation":
        extra["per_index"] = 2
    config = one(protocol=protocol, chemistry=chemistry, **extra)
    c, found = columns_of(Fleet(config), 0), truth.of(config)
    cycles, swings = found.cycles.to_pylist(), found.swings.to_pylist()
    assert [row["cycle_number"] for row in cycles] == [1, 2, 3, 4]
    through = 0.0
    for row in cycles:
        rows = rows_of(c, row)
        assert row["charge_ah"] == pytest.approx(moved(c, rows, "charge"), abs=5e-6)
        assert row["discharge_ah"] == pytest.approx(moved(c, rows, "discharge"), abs=5e-6)
        through += row["charge_ah"] + row["discharge_ah"]
        assert row["throughput_ah"] == pytest.approx(through)
        assert row["equivalent_full_cycles"] == pytest.approx(through / 4.0)
        assert c["cycle_index"][rows.stop - 1] == row["cycle_index"]
        assert c["test_id"][rows.stop - 1].decode() == row["test_id"]
        if row["is_valid"]:
            assert row["net_discharge_ah"] == pytest.approx(row["capacity_ah"], rel=2e-5)
            assert row["depth"] == pytest.approx(1.0, abs=2e-5)
    for row in swings:
        rows = rows_of(c, row)
        net = moved(c, rows, "discharge") - moved(c, rows, "charge")
        net = net if row["direction"] == "discharge" else -net
        assert row["net_ah"] == pytest.approx(net, abs=1e-5)
        low, high = c["voltage_v"][rows].min(), c["voltage_v"][rows].max()
        cell = found.cells.to_pylist()[0]
        if row["is_full"]:
            assert low == pytest.approx(cell["v_min_v"], abs=0.35)
            assert high == pytest.approx(cell["v_max_v"], abs=0.05)
    assert sum(row["swings"] for row in cycles) == len(swings)
    kinds = [row["kind"] for row in cycles]
    assert (
        kinds
        == {
            "cycling": ["full"] * 4,
            "multistage": ["full"] * 4,
            "partial": ["full", "discharge_partial", "charge_partial", "full"],
            "drive": ["drive"] * 4,
            "formation": ["several"] * 3 + ["full"],
            "check_up": ["check_up", "full", "full", "check_up"],
            "pulse": ["pulse", "full", "full", "pulse"],
        }[protocol]
    )


@pytest.mark.parametrize("chemistry", [*CHEMISTRY_NAMES, None])
def test_resistance_is_the_step_of_voltage_over_the_step_of_current(chemistry: str | None) -> None:
    config = one(interval=60.0, **({"chemistry": chemistry, "fade": 4.0} if chemistry else {}))
    c = columns_of(Fleet(config), 0)
    for row in truth.of(config).cycles.to_pylist():
        rows = rows_of(c, row)
        step = rows.start + 1 + int(np.argmax(c["step_index"][rows.start + 1 : rows.stop] == 4))
        assert c["step_time_s"][step : step + 3].tolist() == [1.0, 10.0, 30.0]
        for place, name in ((1, "resistance_10s_ohm"), (2, "resistance_30s_ohm")):
            seen = (c["voltage_v"][step - 1] - c["voltage_v"][step + place]) / 2.0
            # What is seen has the fall of open-circuit voltage in it: of up to 0.9 % of the charge.
            assert row[name] - 1e-4 < seen < row[name] + 0.032
        # At the discharge's end there is no such fall: after t of rest R0 + R1 (1 - exp(-t / tau))
        # of the same resistances has come back.
        rest = step + int(np.argmax(c["step_index"][step : rows.stop] == 5))
        back = (c["voltage_v"][rest : rows.stop] - c["voltage_v"][rest - 1]) / 2.0
        after = c["step_time_s"][rest : rows.stop]
        tau = CHEMISTRIES[chemistry].tau_s if chemistry else cell_model.TAU_S
        for seconds, name in ((10.0, "resistance_10s_ohm"), (30.0, "resistance_30s_ohm")):
            # Two unknowns from the first and the last reading.
            decay = np.exp(-after / tau)
            r1 = (back[-1] - back[0]) / (decay[0] - decay[-1])
            r0 = back[0] - r1 * (1.0 - decay[0])
            found = r0 + r1 * (1.0 - np.exp(-seconds / tau))
            assert found == pytest.approx(row[name], rel=0.01)


@pytest.mark.parametrize("chemistry", [*CHEMISTRY_NAMES, None])
def test_peaks_are_where_close_readings_show_them(chemistry: str | None) -> None:
    config = one(
        cycles=1, interval=1.0, **({"chemistry": chemistry, "fade": 4.0} if chemistry else {})
    )
    c = columns_of(Fleet(config), 0)
    found = truth.of(config).peaks.to_pylist()
    for direction, step in (("charge", 1), ("discharge", 4)):
        rows = c["step_index"] == step
        volts, ah = c["voltage_v"][rows], c[f"{direction}_capacity_ah"][rows]
        own = [peak for peak in found if peak["direction"] == direction]
        assert len(own) >= 3
        assert sum(peak["is_main"] for peak in own) == 1
        for peak in own:
            # Voltage over charge near the peak as a polynomial: its flattest place.
            near = np.flatnonzero(np.abs(volts - peak["voltage_v"]) < 0.010)
            width = np.ptp(ah[near])
            x = (ah[near] - ah[near].mean()) / width
            fit = np.polyfit(x, volts[near], 7)
            places = np.linspace(0.7 * x.min(), 0.7 * x.max(), 2001)
            slope = np.abs(width / np.polyval(np.polyder(fit), places))
            top = slope.argmax()
            assert np.polyval(fit, places[top]) == pytest.approx(peak["voltage_v"], abs=0.0015)
            assert slope[top] == pytest.approx(peak["dq_dv_ah_per_v"], rel=0.012)


def test_mean_temperature_is_weighted_by_time() -> None:
    for config in (
        one(interval=60.0),
        one(interval=60.0, protocol="drive", chemistry="nmc", temperature_swing=10.0),
    ):
        c = columns_of(Fleet(config), 0)
        for row in truth.of(config).cycles.to_pylist():
            rows = rows_of(c, row)
            t = c["recorded_at_us"][rows] / 1e6
            warm = c["temperature_c"][rows]
            mean = np.trapezoid(warm, t) / (t[-1] - t[0])
            assert row["temperature_mean_c"] == pytest.approx(mean, abs=0.06)


def test_a_knee_bends_the_capacity_where_it_says() -> None:
    config = one(cycles=300, knee=200, fade=4.0, chemistry="lco", interval=600.0)
    found = truth.of(config)
    (cell,) = found.cells.to_pylist()
    assert (cell["knee_onset_cycle"], cell["knee_point_cycle"]) == (160.0, 200.0)
    series = np.array(found.cycles.column("capacity_ah").to_pylist())
    slopes = [
        np.polyfit(np.arange(low, high), series[low:high], 1)[0]
        for low, high in ((0, 160), (160, 200), (200, 300))
    ]
    assert slopes[1] / slopes[0] == pytest.approx(4.0, rel=0.1)
    assert slopes[2] / slopes[0] == pytest.approx(12.0, rel=0.1)
    end = cell["end_of_life_nominal_cycle"]
    assert np.median(series[end - 12 : end - 2]) > 1.6 > np.median(series[end + 2 : end + 12])
    assert cell["end_of_life_initial_cycle"] == pytest.approx(end, abs=5)
    # A record that ends between the two has the onset only.
    (cut,) = truth.of(one(cycles=18, knee=20, chemistry="lco", interval=600.0)).cells.to_pylist()
    assert (cut["knee_onset_cycle"], cut["knee_point_cycle"]) == (16.0, None)
    (flat,) = truth.of(one(cycles=30, fade=0.0)).cells.to_pylist()
    assert flat["knee_point_cycle"] is flat["end_of_life_nominal_cycle"] is None


def test_the_default_fleet_has_a_truth_too() -> None:
    config = FleetConfig(equipment=2, machines=0, cycles=500, noise=0.0, interval=600.0)
    found = truth.of(config)
    cells = found.cells.to_pylist()
    for number, cell in enumerate(cells):
        c = columns_of(Fleet(config), number)
        own = [r for r in found.cycles.to_pylist() if r["equipment_id"] == cell["equipment_id"]]
        assert len(own) == 500
        for row in own[::37]:
            rows = rows_of(c, row)
            assert row["capacity_ah"] == pytest.approx(moved(c, rows, "discharge"), abs=5e-6)
            assert row["charge_ah"] == pytest.approx(moved(c, rows, "charge"), abs=5e-6)
        end = cell["end_of_life_nominal_cycle"]
        assert 300 < end < 495
        assert own[end + 3]["capacity_ah"] < 1.6 < own[end - 7]["capacity_ah"]
        assert 200 < cell["knee_point_cycle"] < end


def test_machines_have_no_truth_and_readings_without_cycles_neither() -> None:
    found = truth.of(FleetConfig(equipment=4, machines=4, cycles=1))
    assert found.cells.num_rows == found.cycles.num_rows == 0
    with pytest.raises(ConfigError, match=r"'readings'.*'cycles'"):
        truth.of(FleetConfig(readings=100))


def test_a_peak_is_no_end_and_stands_out() -> None:
    volts = np.linspace(3.0, 4.0, 2001)
    density = 5.0 * np.exp(-(((volts - 3.4) / 0.02) ** 2)) + 2.0 * np.exp(
        -(((volts - 3.7) / 0.03) ** 2)
    )
    density += 0.5 + 8.0 * np.exp((volts - 4.0) / 0.02)  # rises towards the end
    density += 0.1 * np.exp(-(((volts - 3.85) / 0.01) ** 2))  # too low to count
    ah = np.concatenate(([0.0], np.cumsum((density[1:] + density[:-1]) / 2.0 * np.diff(volts))))
    found = peaks(volts, ah)
    assert [round(peak.voltage_v, 3) for peak in found] == [3.4, 3.7]
    assert [peak.is_main for peak in found] == [True, False]
    assert found[0].dq_dv_ah_per_v == pytest.approx(5.5, abs=0.01)
    assert found[1].prominence_ah_per_v == pytest.approx(2.0, abs=0.02)
    assert peaks(volts, volts) == []
