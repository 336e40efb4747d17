"""A short form of the benchmark of synthetic cells: one of every protocol and chemistry."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import cells as benchmark
from tests.benchmarks.cell_draws import CHEMISTRIES, OMISSIONS, PROTOCOLS, SAMPLINGS, draw

# Protocols in which every discharge is one swing at one rate.
PLAIN = ("cycling", "partial", "check_up", "multistage")


def test_draws_are_repeatable_and_cover_every_trait() -> None:
    cells = [draw(1, number) for number in range(1000)]
    assert cells[123] == draw(1, 123)
    assert cells[123].uri != draw(2, 123).uri
    seen = {(cell.traits["protocol"], cell.traits["chemistry"]) for cell in cells}
    assert seen == {(p, c) for p in PROTOCOLS for c in CHEMISTRIES}
    for trait, values in (
        ("sampling", set(SAMPLINGS)),
        ("omitted", {omit or "nothing" for omit in OMISSIONS}),
        ("temperature", {"room", "cold", "hot", "season", "cold_week"}),
    ):
        assert {cell.traits[trait] for cell in cells} == values
    assert {cell.traits["interval"] for cell in cells} >= {"1 s", "60 s", "300 s"}
    assert all(5 <= cell.config.cycles <= 40 for cell in cells)
    assert len({cell.equipment_id for cell in cells}) == 1000


@pytest.mark.long
@pytest.mark.slow
def test_the_models_are_right_about_synthetic_cells(tmp_path: Path) -> None:
    cells = [draw(1, number) for number in range(42)]
    scores = benchmark.run(cells, 42, tmp_path)
    assert len(scores.of("equivalent full cycles")) == 42
    print("\n" + "\n".join(benchmark.worst(scores, cells, 1, 3)))
    assert scores.share("equivalent full cycles") == 1.0
    plain = [cell.number for cell in cells if cell.traits["protocol"] in PLAIN]
    assert len(plain) == 24
    assert scores.share("capacity", plain) == 1.0
    assert len(scores.of("capacity", plain)) > 250
    if not scores.missing:
        assert not benchmark.failed(scores)
