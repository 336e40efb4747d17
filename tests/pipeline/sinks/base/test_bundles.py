"""Warehouses that are written a bundle at a time: what a bundle ends with, and leaves behind."""

from __future__ import annotations

import pickle
from functools import partial

import pyarrow as pa
import pytest
from apache_beam.transforms.window import GlobalWindow

from pipeline.errors import WarehouseFailed
from pipeline.sinks.base.bundles import BundleWriter, Figures, WriteBundles
from schemas.reading import READING
from tests.pipeline.sinks.bigquery.test_sink import rows

written: list[str] = []


class Warehouse(BundleWriter[pa.Table]):
    """Takes tables of one row, refuses the key "bad", and fails at the key "down"."""

    def add(self, table: pa.Table) -> None:
        self._held.append(table)
        if len(self._held) == 2:
            self._send_held()

    def _send_held(self) -> None:
        self._under_way.extend(self._held)
        self._held = []

    def _settle_oldest(self) -> None:
        sent = self._under_way.popleft()
        key = sent.column("reading_id")[0].as_py()
        if key == "down":
            raise WarehouseFailed("it is down")
        if key == "bad":
            self._refuse(sent, [("refused", "it is bad")])
        else:
            written.append(key)


@pytest.fixture
def step() -> WriteBundles:
    written.clear()
    figures = Figures("warehouse", READING)
    made = WriteBundles(partial(Warehouse, "warehouse", READING, "test://source", figures))
    return pickle.loads(pickle.dumps(made))


def bundle(step: WriteBundles, *keys: str) -> list[dict[str, object]]:
    """Dead letters of a bundle of readings."""
    step.start_bundle()
    for key in keys:
        step.process(rows(READING, {"reading_id": key}))
    ends = list(step.finish_bundle())
    assert all(tuple(end.windows) == (GlobalWindow(),) for end in ends)
    return [letter for end in ends for letter in end.value.to_pylist()]


def test_a_bundle_ends_when_all_is_written_or_refused(step: WriteBundles) -> None:
    letters = bundle(step, "a", "bad", "b", "c", "bad")
    assert written == ["a", "b", "c"]
    assert [letter["step"] for letter in letters] == ["warehouse"] * 2
    assert {letter["error_message"] for letter in letters} == {"it is bad"}
    assert bundle(step) == []


def test_a_bundle_that_fails_leaves_nothing_to_the_one_that_repeats_it(step: WriteBundles) -> None:
    with pytest.raises(WarehouseFailed, match="down"):
        bundle(step, "bad", "down", "a")
    assert written == []
    assert len(bundle(step, "bad", "a")) == 1
    assert written == ["a"]
