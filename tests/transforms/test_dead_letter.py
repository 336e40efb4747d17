from dataclasses import replace

import pyarrow as pa
import pytest

from schemas.forms import arrow_schema
from schemas.reading import DEAD_LETTER
from transforms import dead_letter
from transforms.dead_letter import DeadLetter

LETTER = DeadLetter(
    step="decode",
    error_type="malformed_json",
    error_message="no",
    source="kafka://host/topic",
    ingested_at_us=5,
    payload=b"{",
    position="topic/0/1",
)


def test_the_id_is_the_same_however_often_and_whenever_the_letter_is_met():
    later = replace(LETTER, ingested_at_us=6, error_message="other words", attributes='{"try":"2"}')
    assert LETTER.dead_letter_id == later.dead_letter_id
    assert len(bytes.fromhex(LETTER.dead_letter_id)) == 16


def test_the_id_of_a_file_does_not_depend_on_where_it_was_read_from():
    here = replace(LETTER, source="/a/b.csv", source_file="a/b.csv")
    there = replace(LETTER, source="gs://x/a/b.csv", source_file="a/b.csv")
    assert here.dead_letter_id == there.dead_letter_id


@pytest.mark.parametrize(
    "change",
    [{"source": "x"}, {"source_file": "x"}, {"position": "x"}, {"step": "x"}, {"error_type": "x"},
     {"payload": b"x"}, {"payload": None}],
)  # fmt: skip
def test_letters_that_differ_have_different_ids(change):
    assert replace(LETTER, **change).dead_letter_id != LETTER.dead_letter_id


def test_parts_do_not_run_into_each_other():
    first = replace(LETTER, step="ab", error_type="c")
    second = replace(LETTER, step="a", error_type="bc")
    assert first.dead_letter_id != second.dead_letter_id


def test_letters_become_a_table_of_the_schema():
    table = dead_letter.table([LETTER, replace(LETTER, payload=None)])
    assert table.schema.equals(arrow_schema(DEAD_LETTER), check_metadata=True)
    assert table.column("payload").to_pylist() == [b"{", None]
    assert table.column("ingested_at").cast(pa.int64()).to_pylist() == [5, 5]
    assert table.column("dead_letter_id")[0].as_py() == LETTER.dead_letter_id
    assert dead_letter.table([]).num_rows == 0
