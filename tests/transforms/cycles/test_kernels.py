"""The kernels of a finished cycle on cells of known truth, without a warehouse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.integration.test_incremental_capacity import OXIDE
from transforms.cycles.ica import Asked, Peak, Peaks, peaks, peaks_of
from transforms.cycles.noise import rest_differences_v, rest_noise_v
from transforms.cycles.resistance import NO_DISCHARGE, SMALL_CHANGE, resistance
from transforms.cycles.steps import CHARGE, DISCHARGE, REST, Readings, steps_of

REST_A = 0.01
R0, R1, TAU = 0.05, 0.02, 20.0
Step = tuple[float, NDArray[np.float64], NDArray[np.float64]]  # A, times and voltages


def readings(steps: Sequence[Step], first_step: int = 0, clock: bool = True) -> Readings:
    """The readings of steps of constant current; the cycle begins with one of them."""
    lengths = [len(times) for _, times, _ in steps]
    run = np.repeat(np.arange(1, len(steps) + 1), lengths)
    in_step = np.concatenate([times for _, times, _ in steps])
    starts = np.concatenate(([0.0], np.cumsum([times[-1] for _, times, _ in steps])))[:-1]
    recorded = np.repeat(starts, lengths) + in_step
    current = np.repeat([amps for amps, _, _ in steps], lengths)
    delta = np.diff(recorded, prepend=np.nan)
    moved = np.nan_to_num(current * delta / 3600.0)
    return Readings(
        first=sum(lengths[:first_step]),
        reading_seq=np.arange(1, len(run) + 1),
        step_run=run,
        recorded_s=recorded,
        time_delta_s=delta,
        step_time_s=in_step if clock else None,
        voltage_v=np.concatenate([volts for _, _, volts in steps]),
        current_a=current,
        dq_charge_ah=np.maximum(moved, 0.0),
        dq_discharge_ah=np.maximum(-moved, 0.0),
        is_gap=np.zeros(len(run), dtype=bool),
    )


def truth(seconds: float) -> float:
    return R0 + R1 * (1.0 - math.exp(-seconds / TAU))


def loaded(every: float = 1.0, noise: float = 0.0, clock: bool = True) -> Readings:
    """A rest, a discharge of 2 A, another rest."""
    rest, load = np.arange(60.0, 901.0, 60.0), np.arange(every, 601.0, every)
    answer = 3.7 - 2.0 * (R0 + R1 * (1.0 - np.exp(-load / TAU)))
    answer = answer + np.random.default_rng(1).normal(0.0, noise, len(answer))
    steps: list[Step] = [
        (0.0, rest, np.full(len(rest), 3.7)),
        (-2.0, load, answer),
        (0.0, rest, np.full(len(rest), 3.7)),
    ]
    return readings(steps, clock=clock)


def of(given: Readings, noise_v: float | None = None) -> dict[str, list[float | str | None]]:
    found = resistance(given, steps_of(given, REST_A), REST_A, noise_v)
    return {"ohm": list(found.ohm), "reasons": list(found.reasons)}


def test_steps_have_directions_and_charge() -> None:
    steps = steps_of(loaded(), REST_A)
    assert steps.directions == [REST, DISCHARGE, REST]
    assert steps.discharge_ah == pytest.approx([0.0, 2.0 / 6.0, 0.0])
    both = replace(loaded(), current_a=-loaded().current_a)
    assert steps_of(both, REST_A).directions == [REST, CHARGE, REST]


def test_a_step_of_both_signs_goes_where_its_mean_does() -> None:
    given = loaded()
    current = given.current_a.copy()
    current[20:30] = 1.0
    assert steps_of(replace(given, current_a=current), REST_A).directions[1] == DISCHARGE
    current[20:] = np.where(current[20:] < 0, 1.0, current[20:])
    assert steps_of(replace(given, current_a=current), REST_A).directions[1] == CHARGE


@pytest.mark.parametrize("every", [1.0, 10.0])
def test_resistance_is_the_true_one(every: float) -> None:
    found = of(loaded(every))
    assert found["reasons"] == [None, None]
    assert found["ohm"] == pytest.approx([truth(10), truth(30)], rel=0.03)


def test_the_readings_before_the_cycle_belong_to_it() -> None:
    whole = loaded()
    begun = replace(whole, first=15)
    assert steps_of(begun, REST_A).directions == [DISCHARGE, REST]
    assert of(begun) == of(whole)


def test_where_there_is_no_resistance_is_said() -> None:
    assert of(loaded(60.0))["reasons"] == [
        "sampling: no reading in the first 10 s",
        "sampling: no reading in the first 30 s",
    ]
    assert of(loaded(60.0, clock=False))["reasons"] == ["start: not known when the step began"] * 2
    assert of(loaded(noise=0.002))["reasons"] == ["voltage: too noisy for so small a change"] * 2
    assert of(loaded(), noise_v=0.01)["reasons"] == ["voltage: too noisy for so small a change"] * 2
    charged = loaded()
    assert of(replace(charged, current_a=-charged.current_a))["reasons"] == [NO_DISCHARGE] * 2
    # a test that begins with its discharge has no reading before it
    alone = readings([(-2.0, np.arange(1.0, 601.0), np.full(600, 3.6))])
    assert of(alone)["reasons"] == [SMALL_CHANGE] * 2
    lost = loaded()
    gaps = lost.is_gap.copy()
    gaps[15] = True
    missing = "sampling: readings are missing before the step"
    assert of(replace(lost, is_gap=gaps))["reasons"] == [missing] * 2


def test_a_first_reading_before_the_switch_is_the_reading_before() -> None:
    given = loaded()
    current, volts, clock = given.current_a.copy(), given.voltage_v.copy(), given.step_time_s
    assert clock is not None
    current[15], volts[15] = 0.0, 3.7
    late = replace(given, current_a=current, voltage_v=volts, step_time_s=clock - clock[15])
    found = of(late)
    assert found["reasons"] == [None, None]
    assert found["ohm"] == pytest.approx([truth(11), truth(31)], rel=0.01)


def test_rests_show_the_noise() -> None:
    times = np.arange(10.0, 6001.0, 10.0)
    volts = 3.7 + np.random.default_rng(3).normal(0.0, 0.002, len(times))
    volts[:28] += 0.1 * np.arange(28)  # it has not settled yet
    rest = readings([(0.0, times, volts), (-2.0, times, volts)])
    found = rest_differences_v(rest, REST_A)
    assert len(found) == len(times) - 32
    assert rest_noise_v(found) == pytest.approx(0.002, rel=0.1)
    assert rest_noise_v(found[:19]) is None
    assert not len(rest_differences_v(rest, -1.0))


def cycled(amps: float = 1.0, every: float = 10.0, noise: float = 0.0) -> Readings:
    """A charge over the whole curve, a rest, and a discharge."""
    volts = np.linspace(OXIDE.low - 0.2, OXIDE.high + 0.2, 400_001)
    held = OXIDE.charge(volts)
    held -= np.interp(OXIDE.low, volts, held)
    whole = float(np.interp(OXIDE.high, volts, held))
    times = np.arange(every, whole / amps * 3600.0, every)
    scatter = np.random.default_rng(2).normal(0.0, noise, (2, len(times)))
    charged = np.interp(times * amps / 3600.0, held, volts) + scatter[0]
    emptied = np.interp(whole - times * amps / 3600.0, held, volts) + scatter[1]
    rest = np.arange(10.0, 601.0, 10.0)
    still = np.full(len(rest), OXIDE.high)
    return readings([(amps, times, charged), (0.0, rest, still), (-amps, times, emptied)])


def peaks_in(given: Readings, capacity_ah: float = 2.0, noise_v: float | None = None) -> Peaks:
    return peaks(given, steps_of(given, REST_A), capacity_ah, noise_v)


@pytest.mark.parametrize("every", [1.0, 10.0, 60.0])
def test_the_main_peaks_are_the_true_ones(every: float) -> None:
    found = peaks_in(cycled(every=every))
    true_v, true_height = max(OXIDE.peaks(), key=lambda peak: peak[1])
    for peak in (found.charge, found.discharge):
        assert isinstance(peak, Peak)
        assert peak.voltage_v == pytest.approx(true_v, abs=0.003)
        assert peak.dq_dv_ah_per_v == pytest.approx(true_height, rel=0.05)
        assert abs(peak.dq_dv_ah_per_v - true_height) < 3 * peak.dq_dv_error_ah_per_v + 0.05
        assert 0.5 < peak.area_ah < 1.0


def test_noise_that_the_rests_show_hides_peaks_too() -> None:
    given = cycled(every=60.0)
    calm, noisy = peaks_in(given, noise_v=0.0).charge, peaks_in(given, noise_v=0.003).charge
    assert calm is not None and noisy is not None
    assert noisy.dq_dv_error_ah_per_v > calm.dq_dv_error_ah_per_v
    assert calm.is_certain and not noisy.is_certain
    assert peaks_in(given, noise_v=0.3) == Peaks(None, None)


def test_a_step_that_moves_too_little_has_no_peaks() -> None:
    assert peaks_in(cycled(), capacity_ah=30.0) == Peaks(None, None)
    assert peaks_in(loaded(), capacity_ah=10.0) == Peaks(None, None)
    # nothing is known of the capacity, and no step has moved anything
    assert peaks_in(loaded(), capacity_ah=math.nan) == Peaks(None, None)


def test_coarse_voltages_are_read_in_their_middle() -> None:
    fine = cycled(every=1.0)
    coarse = replace(fine, voltage_v=np.round(fine.voltage_v / 0.005) * 0.005)
    one, other = peaks_in(fine).charge, peaks_in(coarse).charge
    assert one is not None and other is not None
    assert other.voltage_v == pytest.approx(one.voltage_v, abs=0.005)
    assert other.dq_dv_ah_per_v == pytest.approx(one.dq_dv_ah_per_v, rel=0.05)


def test_cycles_together_do_not_touch_one_another() -> None:
    given = [cycled(), loaded(), cycled(every=60.0, noise=0.001), cycled(amps=0.5), loaded()]
    asked = [Asked(one, steps_of(one, REST_A), 2.0, None) for one in 20 * given]
    alone = [peaks(*one) for one in asked[: len(given)]]
    assert sum(one.charge is not None for one in alone) == 3
    for place, one in enumerate(peaks_of(asked)):
        other = alone[place % len(given)]
        for peak, same in ((one.charge, other.charge), (one.discharge, other.discharge)):
            assert (peak is None) == (same is None)
            if peak is not None and same is not None:
                assert peak.voltage_v == pytest.approx(same.voltage_v, rel=1e-9)
                assert peak.dq_dv_ah_per_v == pytest.approx(same.dq_dv_ah_per_v, rel=1e-9)
    assert peaks_of([]) == []
