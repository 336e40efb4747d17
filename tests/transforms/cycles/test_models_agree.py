"""The kernels of a finished cycle against the models, on warehouses that the job and they made."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from pipeline import models
from tests.benchmarks.cell_draws import PROTOCOLS, draw
from tests.calce import calce_dir
from tests.running import Ran, run
from tests.transforms.cycles.from_models import Cycle, cycles
from transforms.cycles.ica import peaks
from transforms.cycles.resistance import resistance
from transforms.cycles.steps import steps_of

RELATIVE = 1e-6
# Every protocol by every chemistry; sampling, noise, temperature and what is omitted are drawn.
CELLS = 4 * len(PROTOCOLS)
MODELS = "+battery_cycles +battery_ica_peaks +battery_resistance"
OF_PEAK = (
    "voltage_v",
    "voltage_error_v",
    "dq_dv_ah_per_v",
    "dq_dv_error_ah_per_v",
    "prominence_ah_per_v",
    "area_ah",
)


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
def simulated(tmp_path_factory: pytest.TempPathFactory) -> list[Cycle]:
    return drawn(tmp_path_factory.mktemp("drawn"), 1, range(CELLS))


@pytest.fixture(scope="module")
def calce(tmp_path_factory: pytest.TempPathFactory) -> list[Cycle]:
    return build(run(tmp_path_factory.mktemp("calce"), calce_dir() / "CS2_35.zip"))


def differs(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is not other
    return not math.isclose(one, other, rel_tol=RELATIVE, abs_tol=1e-15)


def resistance_differs(cycle: Cycle, compared: Counter[str]) -> list[str]:
    """What differs in a cycle's resistance; counts what was compared."""
    steps = steps_of(cycle.readings, cycle.rest_current_a)
    found = resistance(cycle.readings, steps, cycle.rest_current_a, cycle.noise_v)
    out = []
    for seconds, ohm in zip((10, 30), found.ohm, strict=True):
        of_model = cycle.model[f"dc_resistance_{seconds}s_ohm"]
        compared["resistance" if of_model is not None else "no resistance"] += 1
        if differs(ohm, of_model):
            out.append(f"{cycle.key}: {seconds} s: {ohm} and {of_model}")
    if found.reasons[1] != cycle.model["dc_resistance_reason"]:
        out.append(f"{cycle.key}: {found.reasons[1]}, {cycle.model['dc_resistance_reason']}")
    compared[f"because {found.reasons[1]}"] += 1
    return out


def peaks_differ(cycle: Cycle, compared: Counter[str]) -> list[str]:
    """What differs in a cycle's main peaks; counts what was compared."""
    steps = steps_of(cycle.readings, cycle.rest_current_a)
    found = peaks(cycle.readings, steps, cycle.capacity_ah, cycle.model["rest_noise_v"])
    out = []
    for direction, peak in (("charge", found.charge), ("discharge", found.discharge)):
        of_model = cycle.peaks.get(direction)
        compared["peak" if of_model else "no peak"] += 1
        if peak is None or of_model is None:
            if peak is not None or of_model is not None:
                out.append(f"{cycle.key} {direction}: {peak} and {of_model}")
            continue
        out += [
            f"{cycle.key} {direction} {name}: {getattr(peak, name)} and {of_model[name]}"
            for name in OF_PEAK
            if differs(getattr(peak, name), of_model[name])
        ]
        if peak.is_certain != of_model["is_certain"]:
            out.append(f"{cycle.key} {direction}: certain {peak.is_certain}")
    return out


Compare = Callable[[Cycle, Counter[str]], list[str]]


def agree(found: list[Cycle], compare: Compare, at_least: dict[str, int]) -> None:
    """Asserts that nothing differs, and that so much was compared."""
    compared: Counter[str] = Counter()
    wrong = [line for cycle in found for line in compare(cycle, compared)]
    assert not wrong, f"{len(wrong)} differ, of {dict(compared)}:\n" + "\n".join(wrong[:20])
    missing = {name: n for name, n in at_least.items() if compared[name] < n}
    assert not missing, f"too few of {missing}: {dict(compared)}"


@pytest.mark.slow
def test_resistance_of_simulated_cells(simulated: list[Cycle]) -> None:
    least = {
        "resistance": 80,
        "no resistance": 80,
        "because voltage: too noisy for so small a change": 10,
        "because sampling: readings around 30 s too far apart": 10,
        "because sampling: no reading in the first 30 s": 10,
    }
    agree(simulated, resistance_differs, least)


@pytest.mark.slow
def test_peaks_of_simulated_cells(simulated: list[Cycle]) -> None:
    agree(simulated, peaks_differ, {"peak": 150, "no peak": 50})


@pytest.mark.slow
@pytest.mark.calce
def test_resistance_of_a_real_cell(calce: list[Cycle]) -> None:
    agree(calce, resistance_differs, {"resistance": 850, "no resistance": 100})


@pytest.mark.slow
@pytest.mark.calce
def test_peaks_of_a_real_cell(calce: list[Cycle]) -> None:
    agree(calce, peaks_differ, {"peak": 1700, "no peak": 10})


@pytest.mark.long
@pytest.mark.parametrize("seed", [2, 3])
def test_many_cells(seed: int, tmp_path: Path) -> None:
    found = drawn(tmp_path, seed, range(5 * CELLS))
    agree(found, resistance_differs, {"resistance": 400, "no resistance": 400})
    agree(found, peaks_differ, {"peak": 1000, "no peak": 400})
