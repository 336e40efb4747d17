"""Knees in synthetic capacity curves of known truth: found where they are, and nowhere else."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipeline import models
from tests.benchmarks.knees import MODELS, Judge, Series, series
from tests.services.bigquery import BigQuery
from tests.services.fixtures import set_environment
from tests.warehouses import Dataset

EACH = 12  # series of a kind; python -m tests.benchmarks.knees takes 1,000
SEED = 7
WITHOUT = (
    "linear, noise 0.5 %",
    "linear, noise 2 %",
    "flat, noise 0.5 %",
    "drift noise 1 %",
    "seasons 1 %, two a life",
    "recovery 1 % every 50 cycles",
    "one long rest at 2/3",
    "one long rest at 1/6",
    "step down 2 % at 1/2",
    "step down 2 % at 95 %",
    "rise over 60, then linear",
    "rise over 150, then linear",
    "square root",
    "gently accelerating",
    "exponential fade to nothing",
    "last 3 cycles bad",
    "last 25 at a higher rate",
    "short, 60 cycles",
)
WITH = (
    "knee 4x at 2/3",
    "knee 2x at 2/3",
    "knee 10x 20 cycles ago",
    "rise, then knee 4x",
    "square root, then knee 4x",
    "knee, saturated end",
    "knee 5x, check-ups every 25",
    "two breaks, 3x and 10x",
    "two breaks, 2x and 6x",
    "knee 8x, seasons 1 %",
)
YOUNG = 30  # series with a knee ten cycles old


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return Judge(tmp_path_factory.mktemp("knees"))


@pytest.fixture(scope="module")
def judged(judge: Judge) -> dict[str, tuple[list[Series], pd.DataFrame]]:
    """The series of each kind, and the rows of int_capacity_knee."""
    kinds = {kind: [series(kind, n, SEED) for n in range(EACH)] for kind in WITHOUT + WITH}
    knees = judge.knees([cell for cells in kinds.values() for cell in cells])
    return {
        kind: (cells, knees[EACH * place : EACH * (place + 1)])
        for place, (kind, cells) in enumerate(kinds.items())
    }


def test_no_knee_where_there_is_none(judged: dict[str, tuple[list[Series], pd.DataFrame]]) -> None:
    false = {kind: int(judged[kind][1]["knee_cycle"].notna().sum()) for kind in WITHOUT}
    # 5 % are allowed; in 12 of a kind 3 may be bad luck.
    assert max(false.values()) <= 3, false
    assert sum(false.values()) <= 0.05 * EACH * len(WITHOUT), false
    for kind in WITHOUT:
        knees = judged[kind][1]
        assert (knees["knee_cycle"].isna() == knees["knee_reason"].notna()).all()


def test_reasons_in_words(judged: dict[str, tuple[list[Series], pd.DataFrame]]) -> None:
    most = {kind: judged[kind][1]["knee_reason"].mode()[0] for kind in WITHOUT}
    assert most["linear, noise 0.5 %"] == "no significant change of slope"
    assert most["step down 2 % at 95 %"] == "a step, no bend"
    assert most["one long rest at 1/6"] == "a rest or a step between two lines, no bend"
    assert most["square root"] == "the fade slows down"
    assert most["gently accelerating"] == "the fade speeds up evenly, without a bend"
    assert most["rise over 150, then linear"] == "a start that levels off, no bend after it"


def test_knees_are_where_they_are(judged: dict[str, tuple[list[Series], pd.DataFrame]]) -> None:
    for kind in WITH:
        cells, knees = judged[kind]
        assert knees["knee_cycle"].notna().sum() >= 0.8 * EACH, kind
        found = [(cell, row) for cell, (_, row) in zip(cells, knees.iterrows(), strict=True)]
        found = [(cell, row) for cell, row in found if not pd.isna(row["knee_cycle"])]
        for column, what in (("knee_onset", "onset"), ("knee", "point")):
            errors = [
                abs(row[f"{column}_cycle"] - getattr(cell, what)) / cell.cycles[-1]
                for cell, row in found
            ]
            assert np.median(errors) < 0.03, (kind, what)
            inside = [
                row[f"{column}_low_cycle"] <= getattr(cell, what) <= row[f"{column}_high_cycle"]
                for cell, row in found
            ]
            assert np.mean(inside) >= 0.7, (kind, what)
        for _, row in found:
            assert row["knee_onset_low_cycle"] <= row["knee_onset_cycle"] <= row["knee_cycle"]
            assert row["knee_cycle"] <= row["knee_high_cycle"]
            assert row["fade_after_ah_per_cycle"] >= 1.5 * row["fade_before_ah_per_cycle"]


def test_a_knee_among_seasons_is_in_doubt(
    judged: dict[str, tuple[list[Series], pd.DataFrame]],
) -> None:
    swinging = judged["knee 8x, seasons 1 %"][1]
    assert swinging["is_knee_in_doubt"][swinging["knee_cycle"].notna()].all()
    for kind in ("knee 4x at 2/3", "two breaks, 3x and 10x"):
        assert judged[kind][1]["is_knee_in_doubt"].sum() == 0, kind
    assert judged["seasons 1 %, two a life"][1]["is_knee_in_doubt"].sum() <= 1


def test_a_young_knee_is_no_step(judge: Judge) -> None:
    cells = [series("knee 10x 10 cycles ago", n, SEED) for n in range(YOUNG)]
    knees = judge.knees(cells)
    found = knees["knee_cycle"].notna()
    assert found.sum() >= 0.9 * YOUNG, knees["knee_reason"].value_counts()
    low, high = knees["knee_low_cycle"][found], knees["knee_high_cycle"][found]
    true = np.array([cell.point for cell in cells])[found]
    assert ((low <= true) & (true <= high)).mean() >= 0.9


def test_onset_and_point_are_two_where_two_breaks_are(
    judged: dict[str, tuple[list[Series], pd.DataFrame]],
) -> None:
    knees = judged["two breaks, 3x and 10x"][1]
    assert (knees["knee_onset_cycle"] < knees["knee_cycle"]).all()
    assert knees["fade_between_ah_per_cycle"].notna().all()
    one = judged["knee 4x at 2/3"][1]
    assert (one["knee_onset_cycle"] == one["knee_cycle"]).mean() > 0.7


def test_short_flat_and_unfading_records(judge: Judge) -> None:
    cycles = np.arange(1.0, 101.0)
    knees = judge.knees(
        [
            Series(cycles[:39], 2.0 - 1e-3 * cycles[:39]),
            Series(cycles, np.full(100, 2.0)),
            Series(cycles, 2.0 - 1e-3 * cycles),
            Series(cycles, 2.0 + 1e-3 * cycles),
            Series(cycles, np.where(cycles < 10, 2.0, 0.1)),
            Series(cycles, np.zeros(100)),
            # exact lines, as no cell has them
            Series(cycles, 2.0 - 1e-3 * cycles - 5e-3 * np.maximum(cycles - 60, 0.0)),
        ]
    )
    assert knees["knee_reason"][0] == "fewer than 40 reference cycles"
    assert knees["knee_cycle"][:6].isna().all()
    assert knees["knee_reason"][:6].notna().all()
    assert knees["knee_reason"][4] == "too few reference cycles above 40 % of the first capacity"
    assert knees["knee_cycle"][6] == pytest.approx(60, abs=1)
    assert knees["knee_onset_cycle"][6] == knees["knee_cycle"][6]
    assert knees["fade_before_ah_per_cycle"][6] == pytest.approx(1e-3, rel=0.05)
    assert knees["fade_after_ah_per_cycle"][6] == pytest.approx(6e-3, rel=0.05)
    assert knees["knee_capacity_ah"][6] == pytest.approx(1.94, abs=0.003)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_bigquery_finds_the_same(
    judge: Judge, bigquery: BigQuery, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, bigquery.environment)
    kinds = ("short, 100 cycles, knee", "short, 60 cycles")
    cells = [series(kind, 0, SEED) for kind in kinds]
    cycles = np.arange(1.0, 121.0)
    bends = 1e-3 * np.maximum(cycles - 60, 0) + 6e-3 * np.maximum(cycles - 90, 0)
    cells.append(Series(cycles, 2.0 - 5e-4 * cycles - bends + 1e-3 * np.sin(7.0 * cycles**2)))
    local = judge.knees(cells)
    health = pd.DataFrame(
        {
            "equipment_id": np.repeat(["0", "1", "2"], [len(cell.cycles) for cell in cells]),
            "cycle_number": np.concatenate([cell.cycles for cell in cells]).astype(np.int64),
            "capacity_ah": np.concatenate([cell.capacity for cell in cells]),
            "is_reference": True,
        }
    )
    start = pd.Timestamp("2024-01-01", tz="UTC")
    health["started_at"] = start + pd.to_timedelta(4 * health["cycle_number"], unit="h")
    health["started_at"] = health["started_at"].astype("datetime64[us, UTC]")
    dataset = Dataset(bigquery)
    dataset.load({"battery_health": pa.Table.from_pandas(health, preserve_index=False)})
    success, counts = models.build(dataset.uri, " ".join(MODELS), data_tests=False)
    assert success, counts
    names = [name for name in local.columns if name.endswith(("_cycle", "_ah", "_reason"))]
    rows = dataset.sql(f"SELECT {', '.join(names)} FROM int_capacity_knee ORDER BY equipment_id")
    assert len(rows) == len(cells)
    assert sum(row[0] is not None for row in rows) == 2
    for row, (_, expected) in zip(rows, local.iterrows(), strict=True):
        for name, value in zip(names, row, strict=True):
            if pd.isna(expected[name]):
                assert value is None, name
            elif name == "knee_reason":
                assert value == expected[name]
            else:
                assert value == pytest.approx(float(expected[name]), rel=1e-9), name
