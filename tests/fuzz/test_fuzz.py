"""Exports of every brand through one job: whatever is wrong is reported."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz.__main__ import described, table
from tests.fuzz.brands import BRANDS
from tests.fuzz.cell import Order, run
from tests.fuzz.draw import Draw
from tests.fuzz.generate import exports, one
from tests.fuzz.log import draw_log
from tests.fuzz.running import Outcome
from tests.fuzz.running import run as run_job
from tests.fuzz.truth import Range, integrated

# One of each brand, and every brand three times: other exports than those of `make fuzz`.
FEW, MANY = len(BRANDS), 60
SEED = 7


def nothing_is_silently_wrong(outcome: Outcome) -> None:
    wrong = "\n".join(described(verdict, SEED) for verdict in outcome.silent)
    assert not outcome.silent, f"{wrong}\n{table(outcome.verdicts)}"
    assert not outcome.hides_refusals, outcome.out


def test_a_few_exports(tmp_path: Path) -> None:
    outcome = run_job(exports(SEED, FEW), tmp_path)
    assert {verdict.export.brand for verdict in outcome.verdicts} == set(BRANDS)
    nothing_is_silently_wrong(outcome)


@pytest.mark.long
def test_many_exports(tmp_path: Path) -> None:
    nothing_is_silently_wrong(run_job(exports(SEED + 1, MANY), tmp_path))


def test_the_same_number_gives_the_same_export() -> None:
    for number in range(FEW):
        first, second = one(3, number), one(3, number)
        assert first.files == second.files
        assert first.truths == second.truths
        assert one(4, number).files != first.files


def test_the_cell_gives_back_what_it_took() -> None:
    orders = [
        Order(1, "charge", 0.5), Order(1, "hold", 0.05), Order(1, "rest", 0.0, 600.0),
        Order(1, "discharge", 0.5), Order(2, "charge", 0.5), Order(2, "hold", 0.05),
    ]  # fmt: skip
    steps = run(orders, 2.0)
    assert [step.order.kind for step in steps] == [order.kind for order in orders]
    _, _, _, out, back, held = steps
    # the swing between the same two voltages, one way and the other
    assert back.ah + held.ah == pytest.approx(-out.ah, rel=1e-3)
    assert 1.8 < -out.ah < 2.2
    for step in steps:
        mean = (step.current_a[1:] + step.current_a[:-1]) / 2
        assert step.ah == pytest.approx(float(np.sum(mean * np.diff(step.at_s))) / 3600, abs=1e-12)


def test_an_integral_of_the_rows_holds_the_truth() -> None:
    for number in range(60):
        draw = Draw(f"integral:{number}")
        log = draw_log(draw, first_rows=("zero",), fast=False)
        if "cv" in draw.recipe:  # its current is bent between two rows
            continue
        found = integrated(log, log.at_s, np.ones(len(log), bool))
        for (charge, discharge), (into, out) in zip(found, log.cycles, strict=True):
            assert charge.low - 1e-9 <= into <= charge.high + 1e-9
            assert discharge.low - 1e-9 <= out <= discharge.high + 1e-9


def test_counters_restart_as_their_grain_says() -> None:
    log = draw_log(Draw("counters:2"), fast=False)
    by_test, by_cycle, by_step = (log.counted(grain) for grain in ("test", "cycle", "step"))
    assert (np.diff(by_test, axis=1) >= 0).all()
    for number, (charge, discharge) in enumerate(log.cycles, 1):
        last = np.flatnonzero(log.cycle == number)[-1]
        assert by_cycle[0, last] == pytest.approx(charge, rel=1e-9)
        assert by_cycle[1, last] == pytest.approx(discharge, rel=1e-9)
    assert by_step[0].sum() < by_cycle[0].sum() or len(set(log.step)) == 1
    dipped = replace(log, dip_ah=np.full(len(log), 1e9))
    assert (dipped.counted("test")[:2].min(axis=0) == 0).all()


def test_ranges_are_tight() -> None:
    right = Range(1.0, 1.0)
    assert right.holds(1.0019, 0.0)
    assert right.holds(0.9981, 0.0)
    assert not right.holds(1.0021, 0.0)
    assert not right.holds(0.9979, 0.0)
    assert not right.holds(2.0, 0.0)
    assert not Range(0.0, 0.0).holds(0.001, 1e-5)


def test_exports_with_a_wall_clock_know_their_dates() -> None:
    dated = [export for export in exports(5, 3 * FEW) if export.truths[0].first]
    assert len(dated) > FEW
    for export in dated:
        (low, high), *_ = export.truths[0].first
        assert low < high <= low + dt.timedelta(seconds=130)
        assert 2016 <= low.year <= 2026
