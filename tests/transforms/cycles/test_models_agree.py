"""The kernels of a finished cycle against the models, on warehouses that the job and they made."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

from pipeline import models
from tests.benchmarks.cell_draws import PROTOCOLS, draw
from tests.calce import calce_dir
from tests.integration import test_incremental_capacity, test_resistance
from tests.running import Ran, run
from tests.transforms.cycles.from_models import Cycle, cycles
from tests.transforms.cycles.odd_cells import OddCell
from transforms.cycles.ica import Asked, Peak, peaks, peaks_of
from transforms.cycles.noise import rest_differences_v, rest_noise_v
from transforms.cycles.resistance import resistance
from transforms.cycles.steps import steps_of
from transforms.limits import F64

RELATIVE = 1e-6
# Every protocol by every chemistry; sampling, noise, temperature and what is omitted are drawn.
CELLS = 4 * len(PROTOCOLS)
MODELS = "+battery_cycles +battery_ica_peaks +battery_resistance"
OF_PEAK = ("voltage_v", "dq_dv_ah_per_v", "prominence_ah_per_v", "area_ah")
# Where a curve without noise has a level stretch, rounding decides which of its points is the highest.
# The figures are those of the stretch; the errors are those of the point.
ERRORS, ERROR_RELATIVE = ("voltage_error_v", "dq_dv_error_ah_per_v"), 0.05


def build(ran: Ran) -> list[Cycle]:
    """The cycles of what the job left, after the models that they are compared with."""
    assert ran.status == 0, ran.err
    success, counts = models.build(f"duckdb:{ran.warehouse}", MODELS, data_tests=False)
    assert success, counts
    found = list(cycles(ran.warehouse))
    assert ran.sql("SELECT count(*) FROM battery_cycles") == [(len(found),)]
    return found


def drawn(folder: Path, seed: int, numbers: Iterable[int]) -> list[Cycle]:
    """The cycles of drawn cells."""
    for number in numbers:
        draw(seed, number).write(folder / "cells.ndjson")
    return build(run(folder, folder / "cells.ndjson"))


@pytest.fixture(scope="module")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Drawn cells, and those made for resistance and peaks: every kind of clock, noise and stage."""
    folder = tmp_path_factory.mktemp("simulated")
    source = folder / "in"
    test_resistance.constant_loads(source)
    test_resistance.pulses(source)
    test_resistance.odd_ones(source)
    for seed, (name, case) in enumerate(test_incremental_capacity.CASES.items()):
        case.write(source / name / f"{name}.csv", seed)
    for number in range(12):
        OddCell(number).write(source)
    for number in range(CELLS):
        draw(1, number).write(source / "cells.ndjson")
    return run(folder, source)


@pytest.fixture(scope="module")
def simulated(simulation: Ran) -> list[Cycle]:
    return build(simulation)


@pytest.fixture(scope="module")
def real_cell(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run(tmp_path_factory.mktemp("calce"), calce_dir() / "CS2_35.zip")


@pytest.fixture(scope="module")
def calce(real_cell: Ran) -> list[Cycle]:
    return build(real_cell)


def differs(one: float | None, other: float | None, relative: float = RELATIVE) -> bool:
    if one is None or other is None:
        return one is not other
    return not math.isclose(one, other, rel_tol=relative, abs_tol=1e-15)


def resistances_differ(found: list[Cycle], compared: Counter[str]) -> Iterator[str]:
    """What differs in the cycles' resistance; counts what was compared."""
    for cycle in found:
        steps = steps_of(cycle.readings, cycle.rest_current_a)
        given = resistance(cycle.readings, steps, cycle.rest_current_a, cycle.noise_v)
        for seconds, ohm in zip((10, 30), given.ohm, strict=True):
            of_model = cycle.model[f"dc_resistance_{seconds}s_ohm"]
            compared["resistance" if of_model is not None else "no resistance"] += 1
            if differs(ohm, of_model):
                yield f"{cycle.key}: {seconds} s: {ohm} and {of_model}"
        if given.reasons[1] != cycle.model["dc_resistance_reason"]:
            yield f"{cycle.key}: {given.reasons[1]}, {cycle.model['dc_resistance_reason']}"
        compared[f"because {given.reasons[1]}"] += 1


def asked(cycle: Cycle) -> Asked:
    steps = steps_of(cycle.readings, cycle.rest_current_a)
    return Asked(cycle.readings, steps, cycle.capacity_ah, cycle.model["rest_noise_v"])


def peaks_differ(found: list[Cycle], compared: Counter[str]) -> Iterator[str]:
    """What differs in the cycles' main peaks; counts what was compared."""
    for cycle, given in zip(found, peaks_of([asked(cycle) for cycle in found]), strict=True):
        for direction, peak in (("charge", given.charge), ("discharge", given.discharge)):
            of_model = cycle.peaks.get(direction)
            compared["peak" if of_model else "no peak"] += 1
            if peak is None or of_model is None:
                if peak is not None or of_model is not None:
                    yield f"{cycle.key} {direction}: {peak} and {of_model}"
                continue
            for name in (*OF_PEAK, *ERRORS):
                relative = ERROR_RELATIVE if name in ERRORS else RELATIVE
                compared[
                    "closely" if not differs(getattr(peak, name), of_model[name]) else name
                ] += 1
                if differs(getattr(peak, name), of_model[name], relative):
                    yield (
                        f"{cycle.key} {direction} {name}: {getattr(peak, name)} "
                        f"and {of_model[name]}"
                    )
            if peak.is_certain != of_model["is_certain"]:
                yield f"{cycle.key} {direction}: certain {peak.is_certain}"


def noises_differ(found: list[Cycle], compared: Counter[str]) -> Iterator[str]:
    """What differs in the noise that the rests of each cell show; counts what was compared."""
    shown: dict[str, list[F64]] = defaultdict(list)
    of_model: dict[str, float | None] = {}
    for cycle in found:
        cell = cycle.model["equipment_id"]
        shown[cell].append(rest_differences_v(cycle.readings, cycle.rest_current_a))
        of_model[cell] = cycle.model["rest_noise_v"]
    for cell, differences in shown.items():
        noise = rest_noise_v(np.concatenate(differences))
        compared["noise" if of_model[cell] is not None else "no noise"] += 1
        if differs(noise, of_model[cell]):
            yield f"{cell}: {noise} and {of_model[cell]}"


Compare = Callable[[list[Cycle], Counter[str]], Iterable[str]]


def agree(found: list[Cycle], compare: Compare, at_least: dict[str, int]) -> None:
    """Asserts that nothing differs, and that so much was compared."""
    compared: Counter[str] = Counter()
    wrong = list(compare(found, compared))
    assert not wrong, f"{len(wrong)} differ, of {dict(compared)}:\n" + "\n".join(wrong[:20])
    missing = {name: n for name, n in at_least.items() if compared[name] < n}
    assert not missing, f"too few of {missing}: {dict(compared)}"


def live_figures_differ(ran: Ran, columns: Sequence[str]) -> tuple[int, list[str]]:
    """How many ended cycles of cells the stream and the models both have, and what differs in them.

    A figure that one of them does not have is no difference here.
    """
    same = " AND ".join(  # noqa: FLY002 - a line for each
        [
            "model.equipment_id = live.equipment_id",
            "model.test_id IS NOT DISTINCT FROM live.test_id",
            "model.test_cycle = live.cycle_index",
            "model.cycle_restarts = live.cycle_restarts",
        ]
    )
    both = f"battery_cycles AS model JOIN cycles_live AS live ON {same} WHERE live.is_ended"
    wrong = []
    for name in columns:
        off = f"abs(model.{name} - live.{name}) > {RELATIVE} * greatest(abs(model.{name}), 1e-6)"
        for key, one, other in ran.sql(
            f"SELECT model.cycle_key, model.{name}, live.{name} FROM {both} AND {off}"
        ):
            wrong.append(f"{key} {name}: {one} in the model, {other} in the stream")
    ((compared,),) = ran.sql(f"SELECT count(*) FROM {both}")
    ((ended,),) = ran.sql("SELECT count(*) FROM cycles_live WHERE is_ended")
    if compared != ended:
        wrong.append(f"{ended - compared} of {ended} ended cycles are none of the models'")
    return int(compared), wrong


# Of a cycle, from the stream as from the models.
SUMS = (
    "readings", "duration_s", "charge_ah", "discharge_ah", "charge_wh", "discharge_wh", "v_min_v",
    "v_max_v", "charge_end_voltage_v", "discharge_end_voltage_v", "cv_end_current_a",
    "internal_resistance_ohm", "temperature_mean_c", "temperature_min_c", "temperature_max_c",
    "ambient_temperature_mean_c", "gaps", "flagged_readings", "coulombic_efficiency",
    "energy_efficiency", "dc_resistance_10s_ohm", "dc_resistance_30s_ohm",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("simulated")
def test_the_stream_has_the_models_figures(simulation: Ran) -> None:
    compared, wrong = live_figures_differ(simulation, SUMS)
    assert not wrong, f"{len(wrong)} differ, of {compared} cycles:\n" + "\n".join(wrong[:20])
    assert compared > 250


@pytest.mark.slow
@pytest.mark.calce
@pytest.mark.usefixtures("calce")
def test_the_stream_has_the_models_figures_of_a_real_cell(real_cell: Ran) -> None:
    compared, wrong = live_figures_differ(real_cell, SUMS)
    assert not wrong, f"{len(wrong)} differ, of {compared} cycles:\n" + "\n".join(wrong[:20])
    assert compared == 885
    ((peaks_off,),) = real_cell.sql(
        """SELECT count(*) FROM cycles_live AS live
        JOIN battery_cycles AS model ON model.test_id = live.test_id AND model.test_cycle = cycle_index
        JOIN battery_ica_peaks AS peak
            ON peak.cycle_number = model.cycle_number AND is_main AND direction = 'charge'
        WHERE NOT abs(charge_peak_ah_per_v / dq_dv_ah_per_v - 1) <= 1e-6
            OR NOT abs(charge_peak_v - peak.voltage_v) <= 1e-6"""
    )
    assert peaks_off == 0


@pytest.mark.slow
def test_resistance_of_simulated_cells(simulated: list[Cycle]) -> None:
    least = {
        "resistance": 200,
        "no resistance": 200,
        "because start: not known when the step began": 10,
        "because current: not constant until 30 s": 5,
        "because voltage: too noisy for so small a change": 10,
        "because sampling: readings around 30 s too far apart": 10,
        "because sampling: no reading in the first 30 s": 10,
    }
    agree(simulated, resistances_differ, least)


@pytest.mark.slow
def test_peaks_of_simulated_cells(simulated: list[Cycle]) -> None:
    agree(simulated, peaks_differ, {"peak": 150, "no peak": 50})


@pytest.mark.slow
def test_noise_of_simulated_cells(simulated: list[Cycle]) -> None:
    agree(simulated, noises_differ, {"noise": 50, "no noise": 5})


@pytest.mark.slow
def test_one_cycle_alone_has_the_same_peaks(simulated: list[Cycle]) -> None:
    some = [asked(cycle) for cycle in simulated[::5]]
    together = [peak for one in peaks_of(some) for peak in (one.charge, one.discharge)]
    alone = [peak for one in some for peak in both_peaks(one)]
    assert sum(peak is not None for peak in together) > 30
    for one, other in zip(together, alone, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert astuple(one) == pytest.approx(astuple(other), rel=1e-9)


def both_peaks(one: Asked) -> tuple[Peak | None, Peak | None]:
    given = peaks(*one)
    return given.charge, given.discharge


@pytest.mark.slow
@pytest.mark.calce
def test_resistance_of_a_real_cell(calce: list[Cycle]) -> None:
    agree(calce, resistances_differ, {"resistance": 850, "no resistance": 100})


@pytest.mark.slow
@pytest.mark.calce
def test_peaks_of_a_real_cell(calce: list[Cycle]) -> None:
    agree(calce, peaks_differ, {"peak": 1700, "no peak": 10})


@pytest.mark.long
@pytest.mark.parametrize("seed", [2, 3])
def test_many_cells(seed: int, tmp_path: Path) -> None:
    found = drawn(tmp_path, seed, range(3 * CELLS))
    agree(found, resistances_differ, {"resistance": 200, "no resistance": 200})
    agree(found, noises_differ, {"noise": 20, "no noise": 5})
    agree(found, peaks_differ, {"peak": 500, "no peak": 200})


@pytest.mark.long
def test_odd_cells(tmp_path: Path) -> None:
    for number in range(100, 200):
        OddCell(number).write(tmp_path / "in")
    found = build(run(tmp_path, tmp_path / "in"))
    reasons = [
        "None",
        "step: the cycle has no discharge",
        "step: it ends before 30 s",
        "current: changes by too little as the discharge begins",
        "current: not constant until 30 s",
        "start: not known when the step began",
        "sampling: readings are missing before the step",
        "sampling: no reading in the first 30 s",
        "sampling: readings around 30 s too far apart",
        "voltage: too noisy for so small a change",
        "voltage: moves against the current",
    ]
    agree(found, resistances_differ, {f"because {reason}": 1 for reason in reasons})
    agree(found, peaks_differ, {"peak": 100, "no peak": 100})
