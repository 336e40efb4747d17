"""What no field is for is kept as JSON, as the source spelled it."""

import datetime as dt
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms import extra


def of_table(columns, doubled=()):
    names = [name for name in columns if name not in dict(doubled)]
    found = extra.of_table(columns, names, list(doubled))
    return None if found is None else [text and json.loads(text) for text in found.to_pylist()]


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([1.5, None, float("nan")], [1.5, None, None]),
        (pa.array([1, None, 2**62]), [1, None, 2**62]),
        (pa.array([True, False, None]), [True, False, None]),
        (['a "b"', None, "ü"], ['a "b"', None, "ü"]),
        (pa.array([1.5, 2.0, None], pa.float32()), [1.5, 2.0, None]),
        (pa.array([1.5, 2.0, None], pa.float16()), [1.5, 2.0, None]),
        (pa.array([[1], None, [2, 3]]), [[1], None, [2, 3]]),
        (pa.array([{"x": 1}, None, {"x": 2}]), [{"x": 1}, None, {"x": 2}]),
        (pa.array([dt.date(2024, 1, 1), None, None]), ["2024-01-01", None, None]),
        (pa.array(["x", None, "x"]).dictionary_encode(), ["x", None, "x"]),
        (pa.chunked_array([["x"], [None, "y"]]), ["x", None, "y"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_tables_values_are_kept_and_its_nulls_left_out(values, kept):
    assert of_table({"n": values}) == [None if value is None else {"n": value} for value in kept]


@pytest.mark.parametrize("columns", [{}, {"a": pa.nulls(3)}, {"a": pa.nulls(3, pa.string())}])
def test_columns_without_values_leave_nothing(columns):
    assert of_table(columns) is None


def test_names_are_sorted_and_may_hold_any_sign():
    found = extra.of_table({'b"': ["x"], "a,": [1]}, ['b"', "a,"], [])
    assert found.to_pylist() == ['{"a,":1,"b\\"":"x"}']


def test_a_second_column_of_a_field_is_kept_where_the_better_one_counts():
    columns = {"T1": [1.0, None, 3.0], "T2": [10.0, 20.0, None], "T0": [None, None, 5.0]}
    found = extra.of_table(columns, [], [("T2", ["T1", "T0"])])
    assert found.to_pylist() == ['{"T2":10}', None, None]


def test_messages_keep_what_they_said():
    columns = {"x": [1, None, None], "V": [3.7, None, 3.9], "Volt": [3.8, 3.6, None]}
    found = extra.of_messages(columns, ["x"], [("Volt", ["V"])])
    assert found.to_pylist() == ['{"Volt":3.8,"x":1}', None, None]
    assert extra.of_messages(columns, [], []) is None


@pytest.mark.parametrize(
    ("before", "now", "after"),
    [
        ('{"a": 1}', {}, '{"a": 1}'),  # to the letter
        ('{"a":1}', {"b": 2}, '{"a":1,"b":2}'),
        ('{"a":1}', {"a": 3}, '{"a":3}'),
        ("no json", {}, None),
        ("[1]", {"b": 2}, None),
    ],
)
def test_a_replayed_reading_has_its_own_extra_again(before, now, after):
    text = json.dumps({"extra": before, **now})
    found = extra.unnested(pa.array([text, None, text]))
    assert found.to_pylist() == [after or text, None, after or text]


def test_an_extra_that_is_no_text_stays_where_it_is():
    for text in ('{"extra":{"a":1}}', '{"b":1}', "nonsense"):
        assert extra.unnested(pa.array([text])).to_pylist() == [text]


def test_any_value_becomes_json():
    assert extra.dump({"b": 10**30, "a": "ü"}) == f'{{"a":"ü","b":{10**30}}}'
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    assert "nested too deeply" in extra.dump(nested)
    assert json.loads(extra.dump({"a": dt.date(2024, 1, 1)})) == {"a": "2024-01-01"}


@given(st.lists(st.one_of(st.none(), st.text(max_size=8)), min_size=1, max_size=8),
       st.lists(st.one_of(st.none(), st.integers(-(2**60), 2**60)), min_size=1, max_size=8))  # fmt: skip
def test_a_table_is_kept_as_its_messages_would_be(texts, numbers):
    count = min(len(texts), len(numbers))
    texts = [t and t.encode("utf-8", "replace").decode() for t in texts[:count]]
    columns = {"t": pa.array(texts, pa.string()), "n": pa.array(numbers[:count], pa.int64())}
    plain = {"t": texts, "n": numbers[:count]}
    table = extra.of_table(columns, ["t", "n"], [])
    messages = extra.of_messages(plain, ["t", "n"], [])
    expected = [text and json.loads(text) for text in messages.to_pylist()]
    got = [None] * count if table is None else [t and json.loads(t) for t in table.to_pylist()]
    assert got == expected
    assert np.all([e is None or e for e in expected])
