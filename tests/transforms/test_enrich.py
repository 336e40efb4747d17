import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.forms import arrow_schema, flag_names
from schemas.reading import QUALITY_FLAGS, READING
from tests.messages import limits
from tests.transforms.test_sequence import SCENES, cell, table_of
from transforms.enrich import enrich, flag_lists
from transforms.sequence import sequence

MASKS = st.lists(st.integers(0, (1 << len(QUALITY_FLAGS)) - 1), max_size=30)


@given(MASKS)
def test_masks_become_the_names_of_their_flags(masks):
    found = flag_lists(np.array(masks, dtype=np.int64))
    assert found.type == pa.list_(pa.string())
    assert found.to_pylist() == [flag_names(mask) for mask in masks]
    assert all(names == sorted(names) for names in found.to_pylist())


def test_no_flags_are_empty_lists():
    found = flag_lists(np.zeros(3, dtype=np.int64))
    assert found.to_pylist() == [[], [], []]
    found.validate(full=True)


@given(SCENES)
def test_any_ordered_readings_take_the_readings_schema(readings):
    table = sequence(table_of(readings), None, limits()).table
    found = enrich(table)
    assert found.schema.equals(arrow_schema(READING), check_metadata=True)
    assert found.num_rows == table.num_rows
    found.validate(full=True)
    for field in READING.fields:
        if field.required:
            assert found.column(field.name).null_count == 0
    for row in found.to_pylist():
        assert row["power_watt"] == row["voltage_v"] * row["current_a"]
    assert found.column("time_delta_s").to_pylist() == table.column("time_delta_s").to_pylist()
    ids = found.column("reading_id").to_pylist()
    assert len(set(ids)) == len(ids)
    assert ids[0] == f"{table['id_high'][0].as_py():016x}{table['id_low'][0].as_py():016x}"


def test_power_has_the_sign_of_the_current():
    table = sequence(
        table_of([cell(0, current_a=-2.0), cell(1, current_a=2.0)]), None, limits()
    ).table
    assert enrich(table).column("power_watt").to_pylist() == pytest.approx([-7.4, 7.4])


def test_readings_of_a_later_call_take_the_same_form():
    first = sequence(table_of([cell(0, note="x", temperature_c=20.0)]), None, limits())
    second = sequence(table_of([cell(1)]), first.tail, limits())
    found = enrich(second.table).to_pylist()
    assert len(found) == 1
    assert found[0]["temperature_c"] is None
    assert found[0]["extra"] is None
    assert found[0]["time_delta_s"] == 1.0
    assert found[0]["source_file"] is None
