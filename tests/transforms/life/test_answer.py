"""What a model's outputs mean for a cell: figures, bounds alone, or nothing with the reason."""

from __future__ import annotations

import math

import numpy as np
import pytest

from transforms.life import features
from transforms.life.answer import NO_FADE, PAST, TOO_LITTLE, Domain, is_asked, of
from transforms.life.features import NAMES
from transforms.life.history import History, Point


def cell(cycles: int = 100, fade: float = 0.001) -> features.Features:
    history = History()
    for cycle in range(1, cycles + 1):
        noise = 0.0004 * math.sin(5.0 * cycle)
        history.add(Point(cycle, float(cycle), 1.0 - fade * cycle + noise, 0.002))
    return features.of(history)


@pytest.fixture
def domain() -> Domain:
    many = [cell(cycles, fade) for cycles in (40, 80, 120, 160) for fade in (2e-4, 6e-4, 1.2e-3)]
    return Domain.of(np.stack([each.values for each in many if each.values is not None]))


def test_a_fading_cell_gets_cycles_and_their_interval(domain: Domain) -> None:
    found = of(cell(), domain, [0.5, 1.0, 2.0], 0.25)
    span = cell().span
    assert (found.throughput_low, found.throughput, found.throughput_high) == pytest.approx(
        (0.5 * span, span, 2.0 * span)
    )
    assert found.cycles_low is not None and found.cycles is not None
    assert found.cycles == pytest.approx(2.0 * found.cycles_low)
    assert found.knee_risk == 0.25 and not found.out_of_domain and found.reasons == ()


def test_a_cell_past_the_threshold_has_nothing_left(domain: Domain) -> None:
    old = cell(100, 0.0025)
    assert not is_asked(old)
    found = of(old, domain)
    assert (found.cycles, found.cycles_high, found.reasons) == (0.0, 0.0, (PAST,))


def test_of_a_few_cycles_nothing_is_said(domain: Domain) -> None:
    young = cell(3)
    assert not is_asked(young)
    found = of(young, domain)
    assert found.cycles is None and found.out_of_domain and found.reasons == (TOO_LITTLE,)


def test_a_flat_cell_has_a_lower_end_alone(domain: Domain) -> None:
    flat = cell(100, 0.0)
    assert flat.values is not None
    wide = Domain(domain.low - 100.0, domain.high + 100.0, np.ones(len(NAMES), dtype=bool))
    found = of(flat, wide, [3.0, 10.0, 50.0], 0.01)
    assert found.cycles is None and found.cycles_high is None
    assert found.cycles_low is not None and found.cycles_low > 0.0
    assert found.reasons == (NO_FADE,)


def test_a_cell_unlike_all_others_is_told_by_its_features(domain: Domain) -> None:
    odd = cell(100, 0.001)
    assert odd.values is not None
    odd.values[NAMES.index("noise")] = 50.0
    found = of(odd, domain, [0.5, 1.0, 2.0], 0.25)
    assert found.out_of_domain and found.cycles is None
    assert found.reasons == ("out_of_range:noise",)
    odd.values[NAMES.index("noise")] = np.nan
    assert of(odd, domain, [0.5, 1.0, 2.0], 0.25).out_of_domain


def test_a_card_keeps_the_domain(domain: Domain) -> None:
    again = Domain.parse(domain.card())
    np.testing.assert_allclose(again.low, domain.low)
    np.testing.assert_allclose(again.high, domain.high)
    np.testing.assert_array_equal(again.missing, domain.missing)
