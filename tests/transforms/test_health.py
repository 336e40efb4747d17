"""State of health from partial segments: cells of a known curve, aged by known shares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from transforms.health import (
    MOST_BYTES,
    Cell,
    CycleSegments,
    Health,
    Known,
    Segment,
    default,
    segments,
)
from transforms.health.electrodes import graphite_v

KNOWN = Known(2.0, 2.8, 4.2, None)
RESISTANCE = 0.05  # ohm
INTERVAL_S = 30.0


def curve(filling: np.ndarray) -> np.ndarray:
    """Open-circuit voltage of a cell over its state of charge: some positive less graphite."""
    positive = 3.55 + 0.6 * filling + 0.07 * np.tanh((filling - 0.45) / 0.08)
    return positive - 0.5 * np.exp(-filling / 0.02) - graphite_v(0.01 + 0.9 * filling)


def run(
    soh: float, amps: float, first: float, last: float, *, noise_v: float = 0.0,
    resistance: float = RESISTANCE, seed: int = 0,
) -> Segment:  # fmt: skip
    """A segment between two states of charge of a cell whose capacity is `soh` of 2 Ah."""
    capacity = 2.0 * soh
    seconds = np.arange(0.0, abs(last - first) * capacity * 3600.0 / abs(amps), INTERVAL_S)
    ah = abs(amps) * seconds / 3600.0
    volts = curve(first + np.sign(amps) * ah / capacity) + amps * resistance
    volts = volts + noise_v * np.random.default_rng(seed).normal(size=len(volts))
    return Segment(volts, ah, seconds, np.full(len(volts), amps))


def whole(soh: float = 1.0, seed: int = 0, noise_v: float = 0.0) -> list[Segment]:
    """A cycle from limit to limit."""
    return [
        run(soh, 1.0, 0.0, 0.97, noise_v=noise_v, seed=2 * seed),
        run(soh, -2.0, 0.98, 0.015, noise_v=noise_v, seed=2 * seed + 1),
    ]


def cycle(own: list[Segment], number: int, **more: float | None) -> CycleSegments:
    return CycleSegments(
        own, more.pop("capacity_ah", None), 4.0 * number, 1e9 + 1e4 * number, **more
    )


def begun(noise_v: float = 0.0, **more: float | None) -> Cell:
    """A cell after three whole cycles."""
    cell = Cell()
    for number in range(3):
        said = cell.update(cycle(whole(1.0, number, noise_v), number, **more), KNOWN)
        assert said.soh == pytest.approx(1.0, abs=0.005)
    return cell


def faded(cell: Cell, soh: float, cycles: int, low: float, high: float, amps: float) -> Health:
    """Windows while the capacity falls in a straight line; what is said of the last one."""
    said = None
    for number in range(cycles):
        now = 1.0 - (1.0 - soh) * (number + 1) / cycles
        first, last = (low, high) if amps > 0.0 else (high, low)
        grown = RESISTANCE * (1.0 + 0.5 * (1.0 - now))
        window = run(now, amps, first, last, noise_v=0.0005, seed=number, resistance=grown)
        said = cell.update(cycle([window], 3 + number), KNOWN)
    assert said is not None
    return said


@pytest.mark.parametrize("amps", [1.0, -2.0])
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.5), (0.35, 0.6), (0.55, 0.85)])
def test_windows_give_the_capacity_that_is_left(amps: float, low: float, high: float) -> None:
    said = faded(begun(0.0005), 0.85, 100, low, high, amps)
    assert said.soh is not None
    assert said.soh_low is not None
    assert said.soh_high is not None
    assert said.soh == pytest.approx(0.85, abs=0.02)
    assert said.soh_low <= 0.85 <= said.soh_high
    assert said.reason is None
    assert said.method == ("partial charge" if amps > 0.0 else "partial discharge")


def test_a_cell_that_was_never_whole_is_followed_by_its_own_first_windows() -> None:
    cell = Cell()
    assert cell.update(cycle([run(1.0, 1.0, 0.3, 0.65)], 0), KNOWN).soh == pytest.approx(1.0)
    said = faded(cell, 0.9, 60, 0.35, 0.6, 1.0)
    assert said.soh == pytest.approx(0.9, abs=0.025)


def test_full_discharges_alone_are_enough() -> None:
    cell = Cell()
    for number, capacity in enumerate([1.9] * 3 + np.linspace(1.9, 1.71, 60).tolist()):
        said = cell.update(cycle([], number, capacity_ah=capacity), KNOWN)
    assert said.method == "full discharge"
    assert said.soh == pytest.approx(1.71 / 1.9, abs=0.01)
    assert said.soh_high is not None
    assert said.soh_low is not None
    assert said.soh_high - said.soh_low < 0.03


def test_a_full_discharge_takes_the_bias_out_of_what_windows_say() -> None:
    """Windows that see nothing of a loss: after a check-up their figure starts from it."""
    cell = begun(capacity_ah=1.95)
    for number in range(40):
        cell.update(cycle([run(1.0, 1.0, 0.3, 0.6)], 3 + number), KNOWN)
    said = cell.update(
        cycle([run(1.0, 1.0, 0.3, 0.6), run(1.0, -2.0, 0.98, 0.015)], 43, capacity_ah=1.755), KNOWN
    )
    assert said.soh is not None
    assert said.soh < 0.97
    after = cell.update(cycle([run(1.0, 1.0, 0.3, 0.6)], 44), KNOWN)
    assert after.soh == pytest.approx(said.soh, abs=0.005)


def test_a_state_of_bytes_says_the_same() -> None:
    cell = begun(0.001)
    packed = cell.to_bytes()
    assert len(packed) <= MOST_BYTES <= 4096
    assert packed[0] == 1
    other = Cell.from_bytes(packed)
    assert other.to_bytes() == packed
    window = cycle([run(0.98, 1.0, 0.3, 0.6, noise_v=0.001)], 3)
    direct, packed_said = cell.update(window, KNOWN), other.update(window, KNOWN)
    assert direct.soh is not None
    assert packed_said.soh == pytest.approx(direct.soh, abs=1e-5)
    assert Cell.from_bytes(Cell().to_bytes()).to_bytes() == Cell().to_bytes()
    assert Cell.from_bytes(b"").cycles == 0


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        (lambda b: bytes([7]) + b[1:], "version 7"),
        (lambda b: b[:-1], "its head says"),
        (lambda b: b[:20], "its head has"),
    ],
)
def test_a_spoilt_state_is_refused(spoilt, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Cell.from_bytes(spoilt(begun().to_bytes()))


def test_there_are_never_more_bytes_than_said() -> None:
    cell = Cell()
    for number in range(20):
        rate = 0.2 * 1.4**number
        cell.update(cycle([run(1.0, s * rate, *ends) for s, ends in
                           ((1.0, (0.0, 0.97)), (-1.0, (0.98, 0.015)))], number), KNOWN)  # fmt: skip
        assert len(cell.to_bytes()) <= MOST_BYTES


def test_each_reason_why_nothing_is_known() -> None:
    def reason(given: CycleSegments, cell: Cell | None = None) -> str | None:
        said = (cell or begun(temperature_c=25.0)).update(given, KNOWN)
        assert (said.soh, said.soh_low, said.soh_high, said.method) == (None, None, None, None)
        return said.reason

    assert reason(cycle([], 3)) == "no stretch of constant current"
    assert reason(cycle([run(1.0, 6.0, 0.3, 0.6)], 3)) == "rate too different from the reference"
    window = run(1.0, 1.0, 0.3, 0.6)
    far = cycle([window], 3, temperature_c=-5.0)
    assert reason(far) == "temperature too different from the reference"
    level = replace(
        window, voltage_v=3.7 + 0.01 * np.random.default_rng(0).normal(size=len(window.ah)) * 0.2
    )
    assert reason(cycle([level], 3)) in ("plateau too flat", "noise or misfit too large")
    charges = Cell()
    charges.update(cycle([window], 0), KNOWN)
    assert reason(cycle([run(1.0, -2.0, 0.6, 0.3)], 1), charges) == "no overlap with the reference"
    high = Cell()
    high.update(cycle([run(1.0, 1.0, 0.75, 0.95)], 0), KNOWN)
    late = [high.update(cycle([run(1.0, 1.0, 0.75, 0.95)], n), KNOWN) for n in range(1, 15)]
    assert late[-1].reason is None
    assert reason(cycle([run(1.0, 1.0, 0.1, 0.3)], 15), high) == "no overlap with the reference"


def test_what_only_a_full_discharge_can_show_is_asked_for() -> None:
    cell = Cell()
    window = run(1.0, 1.0, 0.3, 0.6)
    said = [cell.update(cycle([window], number), KNOWN) for number in range(800)]
    assert said[10].soh is not None
    assert said[-1].reason == "no full discharge for too long"


def test_what_the_cold_takes_for_a_while_is_no_loss() -> None:
    cell = begun(temperature_c=25.0)
    for number in range(10):
        usable = 1.0 - 0.004 * 10.0
        colder = run(usable, 1.0, 0.2, 0.6, resistance=RESISTANCE * np.exp(0.3))
        said = cell.update(cycle([colder], 3 + number, temperature_c=15.0), KNOWN)
    assert said.soh == pytest.approx(1.0, abs=0.015)


def test_what_lies_ahead_changes_nothing() -> None:
    once, again = begun(), begun()
    for number in range(5):
        window = cycle([run(0.99, 1.0, 0.3, 0.6, seed=number, noise_v=0.001)], 3 + number)
        first = once.update(window, KNOWN)
    for number in range(5):
        window = cycle([run(0.99, 1.0, 0.3, 0.6, seed=number, noise_v=0.001)], 3 + number)
        second = again.update(window, KNOWN)
    assert first == second
    once.update(cycle([run(0.7, 1.0, 0.3, 0.6)], 9), KNOWN)
    assert first == second


def test_other_coefficients_are_used() -> None:
    given = default()
    wide = {name: replace(own, factor=2.0 * own.factor) for name, own in given.intervals.items()}
    window = cycle([run(0.99, 1.0, 0.3, 0.6)], 3)
    usual = begun().update(window, KNOWN)
    wider = begun().update(window, KNOWN, replace(given, intervals=wide))
    assert usual.soh is not None
    assert usual.soh_high is not None
    assert wider.soh == usual.soh
    assert wider.soh_high == pytest.approx(usual.soh + 2.0 * (usual.soh_high - usual.soh))


def readings() -> dict[str, np.ndarray]:
    """A charge at constant current, at constant voltage, a rest, a discharge; every 30 s."""
    amps = np.concatenate(
        (np.full(120, 1.0), 1.0 * np.exp(-np.arange(60) / 15.0), np.zeros(20), np.full(80, -2.0))
    )
    time = 30.0 * np.arange(len(amps))
    volts = np.concatenate(
        (np.linspace(3.5, 4.2, 120), np.full(60, 4.2), np.full(20, 4.18), np.linspace(4.0, 3.2, 80))
    )
    return {"time_s": time, "voltage_v": volts, "current_a": amps, "dq_ah": np.abs(amps) / 120.0}


def test_segments_are_the_stretches_of_constant_current() -> None:
    given = readings()
    charge, discharge = segments(**given, temperature_c=None, nominal_ah=2.0, v_max_v=4.2)
    assert (charge.direction, discharge.direction) == (1.0, -1.0)
    # The first 120 s are left out, and what they moved is known.
    assert charge.time_s[0] == 120.0
    assert charge.skipped_ah == pytest.approx(4.0 / 120.0)
    assert charge.ah[0] == 0.0
    assert charge.ah[-1] == pytest.approx(115.0 / 120.0, abs=0.01)
    assert charge.voltage_v.max() == 4.2
    assert np.all(charge.current_a > 0.94)
    assert len(discharge.ah) == 76
    assert discharge.temperature_c is None


def test_segments_bear_what_cannot_be_read() -> None:
    given = readings()
    given["voltage_v"][50] = np.nan
    given["dq_ah"][60] = np.nan
    charge, _ = segments(**given, temperature_c=None, nominal_ah=2.0, v_max_v=4.2)
    assert np.isfinite(charge.voltage_v).all()
    assert np.all(np.diff(charge.ah) > 0.0)
    assert charge.ah[-1] == pytest.approx(114.0 / 120.0, abs=0.01)


def test_short_stretches_are_none() -> None:
    given = readings()
    assert len(segments(**given, temperature_c=None, nominal_ah=2.0, least_share=0.45)) == 2
    assert not segments(**given, temperature_c=None, nominal_ah=2.0, least_share=0.8)
    empty = {name: values[:0] for name, values in given.items()}
    assert segments(**empty, temperature_c=None, nominal_ah=2.0) == []


def test_a_part_of_a_segment() -> None:
    segment = run(1.0, 1.0, 0.2, 0.8)
    part = segment.part(0.25, 0.5)
    assert part is not None
    assert part.ah[0] == 0.0
    assert part.ah[-1] == pytest.approx(0.25 * segment.ah[-1], abs=0.02)
    assert part.skipped_ah == pytest.approx(0.25 * segment.ah[-1], abs=0.02)
    assert segment.part(0.5, 0.501) is None
