"""The file in which a live job keeps cycles that go on."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.test_pipeline import TestPipeline

from pipeline.errors import CheckpointFailed
from pipeline.running.open_cycles import OpenCycles
from pipeline.sinks import Produced
from schemas import profiles
from tests.transforms.cycles.test_ended import cut, fed, readings
from transforms.batch import PackedBatch
from transforms.cycles import ended
from transforms.cycles.memory import Change, heads_table


def state(*names: str) -> tuple[pa.Table, list[pa.Table]]:
    cells = ended.OpenCycles(profiles.load(), 0, bounded=False)
    for name in names:
        fed(cells, cut(readings(2, name), 30))
    return heads_table(cells.heads), cells.pieces


def change(*names: str) -> Change:
    heads, pieces = state(*names)
    waiting = pa.concat_tables(pieces, promote_options="permissive").unify_dictionaries()
    return Change(PackedBatch(heads), None, PackedBatch(waiting.combine_chunks()))


def run(
    kept: OpenCycles, changes: list[tuple[int, Change]], cells: list[tuple[str, bytes]]
) -> None:
    with TestPipeline() as pipeline:
        none: Any = pipeline | "None" >> beam.Create([])
        kept.write(
            Produced(
                None, None, none, none, none,
                open_cycles=pipeline | "Changes" >> beam.Create(changes),
                cells=pipeline | "Cells" >> beam.Create(cells),
            )
        )  # fmt: skip


def opened(path: Path) -> OpenCycles:
    kept = OpenCycles(str(path / "checkpoint"))
    kept.prepare()
    return kept


def test_a_run_finds_what_the_last_one_saved(tmp_path: Path) -> None:
    kept = opened(tmp_path)
    assert kept.remembered() is None and kept.cells() == []
    run(kept, [(0, change("a")), (1, change("b"))], [("a", b"1"), ("b", b"2")])
    kept.save()
    # Killed: nothing is closed.
    again = opened(tmp_path)
    found = again.remembered()
    assert found is not None
    assert sorted(found.heads.column("equipment_id").to_pylist()) == ["a", "b"]
    _, pieces = state("a", "b")
    assert found.rows.num_rows == sum(piece.num_rows for piece in pieces)
    assert sorted(again.cells()) == [("a", b"1"), ("b", b"2")]
    assert (tmp_path / "checkpoint.cycles").stat().st_mode & 0o077 == 0


def test_what_was_not_saved_is_not_there(tmp_path: Path) -> None:
    kept = opened(tmp_path)
    run(kept, [(0, change("a"))], [])
    assert opened(tmp_path).remembered() is None


def test_what_the_last_run_left_stays_until_this_one_saves(tmp_path: Path) -> None:
    kept = opened(tmp_path)
    run(kept, [(0, change("a")), (7, change("b"))], [])
    kept.save()
    second = opened(tmp_path)
    assert second.remembered() is not None
    second.save()  # nothing has come yet
    third = opened(tmp_path)
    assert third.remembered() is not None
    # By other shards: those of the last run are gone, or their cells would be there twice.
    run(third, [(3, change("a", "b"))], [])
    third.save()
    found = opened(tmp_path).remembered()
    assert found is not None
    assert sorted(found.heads.column("equipment_id").to_pylist()) == ["a", "b"]


def test_added_readings_wait_beside_the_others(tmp_path: Path) -> None:
    kept = opened(tmp_path)
    first = change("a")
    run(kept, [(0, first)], [])
    kept.save()
    assert first.replaced is not None
    more = first._replace(added=first.replaced, replaced=None)
    run(kept, [(0, more)], [])
    kept.save()
    found = opened(tmp_path).remembered()
    assert found is not None and found.rows.num_rows == 2 * first.replaced.table.num_rows


@pytest.mark.parametrize("damage", [b"no database at all, but long enough to be looked at", b""])
def test_a_damaged_file_is_made_again(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    kept = opened(tmp_path)
    run(kept, [(0, change("a"))], [])
    kept.save()
    kept.finish()
    (tmp_path / "checkpoint.cycles").write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        again = opened(tmp_path)
    assert again.remembered() is None
    assert ("checkpoint.cycles can't be used" in caplog.text) is bool(damage)
    run(again, [(0, change("a"))], [])
    again.save()
    assert opened(tmp_path).remembered() is not None


def test_rows_that_can_t_be_read_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = opened(tmp_path)
    run(kept, [(0, change("a"))], [])
    kept.save()
    kept.finish()
    with sqlite3.connect(tmp_path / "checkpoint.cycles") as database:
        database.execute("UPDATE waiting SET data = x'00'")
    with caplog.at_level(logging.WARNING):
        assert opened(tmp_path).remembered() is None
    assert "not whole in cycles_live" in caplog.text


def test_a_file_that_can_t_be_written_ends_the_job_with_its_name(tmp_path: Path) -> None:
    kept = opened(tmp_path)
    run(kept, [(0, change("a"))], [])
    with sqlite3.connect(tmp_path / "checkpoint.cycles") as database:
        database.execute("DROP TABLE heads")
    with pytest.raises(CheckpointFailed, match=r"checkpoint\.cycles"):
        kept.save()
