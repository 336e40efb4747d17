"""A file's decision becomes a row per test, the same however often it is met."""

from __future__ import annotations

import json
from dataclasses import replace

import apache_beam as beam
import pyarrow as pa
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from schemas.forms import arrow_schema
from schemas.reading import TEST_DIALECT
from tests.messages import ARRIVED_US, NOW_US, PROFILES, messages, reading
from transforms.decode import decode
from transforms.interpret.interpretation import Interpretation, Sign, Use, Witness
from transforms.interpret.rows import dialect_rows
from transforms.validate import Validate

DIALECT = Interpretation(
    uses=(Use("I(mA)", "current_a", "mA", 1e-3, why="name"),),
    left=("Aux",),
    refused=(("Q(xAh)", "unit xAh is not understood"),),
    dialect="neware",
    sign=Sign.FROM_STATE,
    day_first=True,
    clock="test time",
    event_time="Date",
    counter_grain="step",
    sampling_s=1.0,
    witnesses=(Witness("charge", "integral", 0.999),),
    disagreements=("identity_guessed", "clock_disagrees"),
)


def table(*pairs: tuple[str, str | None]) -> pa.Table:
    names = pa.array([name for name, _ in pairs]).dictionary_encode()
    return pa.table({"equipment_id": names, "test_id": pa.array([test for _, test in pairs])})


def test_one_row_per_equipment_and_test() -> None:
    given = table(("b", "b@1"), ("a", "a@1"), ("b", "b@1"), ("b", "b@2"), ("m", None))
    found = dialect_rows(given, DIALECT, "x/f.csv", ARRIVED_US)
    assert found.schema.equals(arrow_schema(TEST_DIALECT))
    rows = found.to_pylist()
    assert {(row["equipment_id"], row["test_id"]) for row in rows} == {
        ("b", "b@1"), ("a", "a@1"), ("b", "b@2"), ("m", None)
    }  # fmt: skip
    keys = found.column("dialect_id").to_pylist()
    assert keys == sorted(set(keys)) and all(len(key) == 32 for key in keys)
    row = rows[0]
    assert json.loads(row["columns_used"])["current_a"] == {
        "column": "I(mA)", "unit": "mA", "factor": 1e-3, "why": "name"
    }  # fmt: skip
    assert json.loads(row["columns_left"]) == {
        "kept": ["Aux"], "not_understood": {"Q(xAh)": "unit xAh is not understood"}
    }  # fmt: skip
    assert json.loads(row["witnesses"])["witnesses"][0]["agreement"] == 0.999
    assert row["disagreements"] == ["clock_disagrees", "identity_guessed"]
    assert (row["date_order"], row["current_sign"]) == ("dmy", "from_state")
    assert found.column("ingested_at")[0].value == ARRIVED_US


def test_the_key_is_that_of_equipment_test_file_and_decision() -> None:
    def key(
        test: str | None = "t", file: str | None = "f", dialect: Interpretation = DIALECT
    ) -> str:
        (found,) = dialect_rows(table(("c", test)), dialect, file, 0).to_pylist()
        return str(found["dialect_id"])

    assert key() == key()
    others = [key("u"), key(None), key(""), key(file=None), key(file="g"),
              key(dialect=replace(DIALECT, sign=Sign.POSITIVE_CHARGES))]  # fmt: skip
    assert len({key(), *others}) == 7


def test_without_rows_there_is_no_row() -> None:
    assert dialect_rows(table(("c", "t")).slice(0, 0), DIALECT, "f", 0).num_rows == 0


_seen: list[pa.Table] = []


def _see(found: pa.Table) -> None:
    _seen.append(found)


def test_every_file_is_given_once_however_many_batches_it_has() -> None:
    """Only tests of which a row survived; a batch that says nothing of its file gives none."""
    _seen.clear()
    raws = [
        messages([reading(equipment_id="a"), reading(equipment_id="bad", voltage_v=1e9)]),
        messages([reading(equipment_id="a", record_index=9)]),
        messages([reading(equipment_id="only_bad", voltage_v=1e9)]),
        messages([reading(equipment_id="silent")]),
    ]
    given = [decode(raw)[0] for raw in raws]
    for decoded in given[:3]:
        object.__setattr__(decoded, "dialect", DIALECT)
    with beam.Pipeline(FnApiRunner()) as pipeline:
        valid = (
            pipeline
            | beam.Create([given], reshuffle=False)
            | beam.FlatMap(lambda all_of_them: all_of_them)
            | Validate(PROFILES, NOW_US)
        )
        _ = valid.dialects | beam.Map(_see)
    rows = [row for found in _seen for row in found.to_pylist()]
    assert [row["equipment_id"] for row in rows] == ["a"]
