"""The model of the remaining life: what ships, what is trained, and that its intervals hold."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np
import pytest

from pipeline import train
from pipeline.errors import ConfigError
from pipeline.prediction.remaining_life import RemainingLife
from pipeline.sources.simulation import truth
from pipeline.sources.simulation.config import FleetConfig
from pipeline.training import life_cells, remaining_life
from pipeline.training.life_cells import LifeCell
from transforms.life import features
from transforms.life.answer import NO_FADE, PAST, TOO_LITTLE, Remaining
from transforms.life.history import History, Point


@pytest.fixture(scope="module")
def shipped() -> RemainingLife:
    return RemainingLife()


def asked(model: RemainingLife, soh: Sequence[float], threshold: float = 0.8) -> Remaining:
    history = History()
    for k, each in enumerate(soh):
        history.add(Point(k + 1, float(k), float(each)))
    (found,) = model.of([features.of(history, threshold)])
    return found


def noisy(soh: np.ndarray) -> list[float]:
    return (soh + np.random.default_rng(5).normal(0.0, 0.001, soh.size)).tolist()


def test_intervals_of_the_model_that_ships_hold(shipped: RemainingLife) -> None:
    cells = itertools.chain(life_cells.simulated(60, 31), life_cells.drawn(30, 31))
    shares = (0.2, 0.4, 0.6, 0.8)
    found = [s for cell in cells for s in remaining_life.snapshots(cell, shares, [0.8] * 4)]
    said = shipped.of([one.features for one in found])
    pairs = [(s, one) for s, one in zip(found, said, strict=True) if one.cycles is not None]
    assert len(pairs) > 0.9 * len(found)
    inside = [one.cycles_low <= s.cycles <= one.cycles_high for s, one in pairs]
    assert 0.82 <= np.mean(inside) <= 0.98
    error = np.median([abs(one.cycles - s.cycles) / s.cycles for s, one in pairs])
    assert error < 0.35


def test_a_straight_fade_is_continued(shipped: RemainingLife) -> None:
    said = asked(shipped, noisy(1.0 - 0.16 * np.arange(400) / 399))
    assert said.cycles_low is not None and said.cycles is not None and said.cycles_high is not None
    assert said.cycles_low < 100 < said.cycles_high
    assert said.cycles == pytest.approx(100, rel=0.35)
    assert said.knee_risk is not None and 0.0 <= said.knee_risk <= 1.0


def test_a_higher_threshold_is_nearer(shipped: RemainingLife) -> None:
    soh = noisy(1.0 - 0.08 * np.arange(400) / 399)
    far, near = asked(shipped, soh, 0.7), asked(shipped, soh, 0.85)
    assert far.cycles is not None and near.cycles is not None
    assert near.cycles < far.cycles


def test_a_flat_cell_gets_no_figure_or_a_lower_end_alone(shipped: RemainingLife) -> None:
    said = asked(shipped, noisy(np.full(500, 1.0)))
    assert said.cycles is None and said.cycles_high is None
    assert said.reasons == (NO_FADE,) or said.out_of_domain
    if said.cycles_low is not None:
        assert 0.0 < said.cycles_low < 10_000


def test_past_the_threshold_nothing_is_left(shipped: RemainingLife) -> None:
    said = asked(shipped, noisy(1.0 - 0.3 * np.arange(400) / 399))
    assert (said.cycles_low, said.cycles, said.cycles_high) == (0.0, 0.0, 0.0)
    assert said.reasons == (PAST,)


def test_a_cell_unlike_the_training_is_named_so(shipped: RemainingLife) -> None:
    said = asked(shipped, noisy(1.6 - 0.1 * np.arange(400) / 399), 0.8)
    assert said.out_of_domain and said.cycles is None
    assert "out_of_range:soh" in said.reasons
    short = asked(shipped, [1.0, 0.99])
    assert short.out_of_domain and short.reasons == (TOO_LITTLE,)


def test_many_cells_at_once_are_answered_in_order(shipped: RemainingLife) -> None:
    histories = []
    for end in (0.9, 0.5, 0.95):
        history = History()
        for k in range(200):
            history.add(Point(k + 1, float(k), 1.0 - (1.0 - end) * k / 199))
        histories.append(features.of(history))
    together = shipped.of([*histories, features.of(History())])
    assert together[:3] == [shipped.of([one])[0] for one in histories]
    assert together[1].cycles == 0.0 and together[3].cycles is None


def test_conformal_ends_hold_their_share_of_new_cells() -> None:
    """Snapshots of a cell err together: cells, not snapshots, must be counted."""
    dice = np.random.default_rng(6)
    held = []
    for _ in range(200):
        score = np.repeat(dice.normal(size=60), 4) + 0.1 * dice.normal(size=240)
        group = np.zeros((240, 2), np.int64)
        cell = np.repeat(np.arange(60), 4).astype(str)
        wider = remaining_life.conformal(score, group, cell, 0.1)[0][0]
        held.append(np.mean(dice.normal(size=500) + 0.1 * dice.normal(size=500) <= wider))
    assert 0.88 <= np.mean(held) <= 0.94


def test_too_few_cells_of_a_group_are_moved_with_all() -> None:
    score = np.append(np.zeros(100), np.full(3, 9.0))
    group = np.zeros((103, 2), np.int64)
    group[100:] = (2, 1)
    wider = remaining_life.conformal(score, group, np.arange(103).astype(str), 0.05)
    assert wider[0][0] == 0.0 and wider[2][1] == 0.0


def own(count: int) -> list[LifeCell]:
    config = FleetConfig(equipment=count, machines=0, cycles=420, chemistry="nmc", fade=8.0, seed=3)
    return list(life_cells.alike(config, "own", 3))


def test_own_cells_teach_their_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.prediction import model_file

    monkeypatch.setitem(remaining_life._TREES, "max_iter", 30)
    cells = own(56)
    made, card = remaining_life.train_on(cells[:44], "own cells")
    model_file.write(tmp_path / "own.onnx", made, card)
    model = RemainingLife(tmp_path / "own.onnx")
    assert model.card["data"]["own"] == 44
    found = [s for cell in cells[44:] for s in remaining_life.snapshots(cell, [0.5], [0.8])]
    said = [(s, one) for s, one in zip(found, model.of([s.features for s in found]), strict=True)]
    errors = [abs(one.cycles - s.cycles) / s.cycles for s, one in said if one.cycles is not None]
    assert len(errors) >= 8
    assert np.mean(errors) < 0.2


def test_a_warehouses_cells_are_read(tmp_path: Path) -> None:
    path = tmp_path / "warehouse.duckdb"
    with duckdb.connect(str(path)) as database:
        database.execute(
            """
            create table battery_health as
            select 'c|' || k as cycle_key, 'c' as equipment_id, k as cycle_number,
                0.95 * k as equivalent_full_cycles, 2.0 - 0.002 * k as capacity_ah,
                2.0 as nominal_capacity_ah, 1.0 - 0.001 * k as soh_nominal,
                25.0 as temperature_mean_c, k % 7 <> 0 as is_reference
            from range(1, 301) as r (k)
            """
        )
        database.execute(
            "create table battery_cycles as select cycle_key, "
            "case when cycle_number > 1 then 0.05 end as dc_resistance_30s_ohm from battery_health"
        )
    (cell,) = life_cells.of_warehouse(f"duckdb:{path}")
    assert len(cell.points) == 300 - 42
    assert cell.is_own
    assert np.isnan(cell.points[0].resistance) and cell.points[1].resistance == 0.05
    cycle, throughput = cell.end(0.8) or (0.0, 0.0)
    assert cycle in (201.0, 202.0) and throughput == pytest.approx(0.95 * cycle)


def test_a_warehouse_without_models_names_the_fix(tmp_path: Path) -> None:
    path = tmp_path / "empty.duckdb"
    duckdb.connect(str(path)).close()
    with pytest.raises(ConfigError, match=r"pipeline\.models --warehouse="):
        life_cells.of_warehouse(f"duckdb:{path}")


def test_too_few_cells_name_the_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--simulate=5", f"--out={tmp_path}/m.onnx"]) == 2
    assert "--simulate=2000" in capsys.readouterr().err
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("chemistry", ["default", "nmc"])
def test_capacities_are_those_of_the_whole_truth(chemistry: str) -> None:
    config = FleetConfig(equipment=2, machines=0, cycles=8, chemistry=chemistry)
    found = truth.capacities(config, 1)
    whole = truth.of(config).cycles.to_pandas()
    whole = whole[whole.equipment_id == whole.equipment_id.iloc[-1]]
    # The whole truth has the scatter from cycle to cycle, of 0.06 %.
    assert np.allclose(found.capacity_ah, whole.capacity_ah, rtol=0.004)
    # Its resistance has the warmth of the day.
    assert np.allclose(found.resistance_ohm, whole.resistance_30s_ohm, rtol=0.02)


def test_a_knee_ahead_is_one_within_a_fifth_of_the_span() -> None:
    cycle = np.arange(1.0, 1001.0)
    soh = 1.0 - 1e-4 * cycle - 1e-3 * np.maximum(cycle - 500.0, 0.0)
    cell = LifeCell("k", "k", (), cycle, cycle, soh, soh)
    assert [life_cells.knee_ahead(cell, at, at) for at in (350.0, 430.0, 480.0)] == [
        False,
        True,
        True,
    ]
    assert not life_cells.knee_ahead(cell, 800.0, 800.0)  # it is over
