"""The short form of `python -m tests.fuzz.decoding`, and that it finds what is broken."""

import pickle
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import decoding
from tests.messages import messages
from transforms import plain_json
from transforms.decode import decode


def test_messages_become_the_same_on_both_ways():
    done = decoding.run(8_000, seed=14, size=600, fewest=30)
    assert done["cut"] > done["messages"] / 2
    assert done["dead letters"] > 100


BREAKS = {
    "literals": ("_is_at", lambda is_at: lambda places, *_: np.ones(len(places), dtype=bool)),
    "numbers": (
        "_checked",
        lambda checked: (
            lambda tokens: (
                checked(tokens)[0],
                np.zeros(len(tokens.offsets) - 1, dtype=bool),
            )
        ),
    ),
    "texts": (
        "_texts",
        lambda texts: (
            lambda tokens, rows: (
                texts(tokens, rows)[0],
                np.zeros(len(tokens.offsets) - 1, dtype=bool),
            )
        ),
    ),
}


@pytest.mark.parametrize("part", BREAKS)
def test_what_is_broken_is_found(part, monkeypatch):
    name, broken = BREAKS[part]
    monkeypatch.setattr(plain_json, name, broken(getattr(plain_json, name)))
    with pytest.raises((decoding.Differs, ValueError)):  # msgspec's and Arrow's are among these
        decoding.run(20_000, seed=3, size=600, fewest=30)


@pytest.mark.parametrize(
    "name", ["voltage_v", "record_index", "pressure", "test_id", "recorded_at"]
)
def test_every_odd_value_becomes_the_same_on_both_ways(name):
    good = [b"3.5", b"4", b'"b"', b"null"]
    for odd in decoding.ODD:
        for values in (
            [odd] * 4,
            [odd, odd, good[0], good[1]],
            [*good, odd, *good, odd],
            [*good[:2] * 3, odd],
        ):
            lines = [b'{"current_a":1.5,"%b":%b}' % (name.encode(), value) for value in values]
            decoding.compare(messages(lines), fewest=2)


_NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(10**22), 10**22).map(str),
    st.from_regex(r"-?[0-9]{0,3}\.?[0-9]{0,25}([eE][+-]?[0-9]{1,3})?", fullmatch=True),
    st.text("0123456789.-+eEnulfx \t", max_size=6),
)
_TEXTS = st.one_of(
    st.text(max_size=8).map(lambda text: f'"{text}"'),
    st.text('ab"\\u0041é\x00\x7f,:{}', max_size=8).map(lambda text: f'"{text}"'),
)


@given(st.lists(st.tuples(_NUMBERS, _NUMBERS, _NUMBERS, _TEXTS), min_size=1, max_size=30))
def test_any_value_becomes_the_same_on_both_ways(values):
    good = [("3.5", "1", "2.5", '"a"'), ("-0.25", "2", "7", '"b"')]
    lines = [
        f'{{"voltage_v":{v},"record_index":{r}, "pressure":{p},"test_id":{t}}}'.encode(
            "utf-8", "surrogatepass"
        )
        for v, r, p, t in [*good, *values, *good]
    ]
    decoding.compare(messages(lines), fewest=2)


@given(st.data(), st.randoms(use_true_random=False))
def test_any_change_of_bytes_becomes_the_same_on_both_ways(data, rng):
    raw = decoding.batch(random.Random(rng.random()), 24)
    payloads = raw.table.column("payload").to_pylist()
    row = data.draw(st.sampled_from(range(len(payloads))))
    if payloads[row]:
        changed = bytearray(payloads[row])
        at = data.draw(st.integers(0, len(changed)))
        changed[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
        payloads[row] = bytes(changed)
    decoding.compare(messages(payloads), fewest=3, at_once=2_000)


def test_the_messages_of_several_producers_are_cut_but_for_those_of_which_there_are_few():
    shapes = [
        b'{"voltage_v": %d.5, "cell": "C%d"}', b'{"Voltage(V)":%d.25,"test_id":"T%d"}',
        b'{\n "temp" : %d ,\n "note" : "n%d"\n}\n',
    ]  # fmt: skip
    lines = [shapes[row % 3] % (row, row) for row in range(3 * plain_json.FEWEST)]
    lines[40] = b"{"
    found = plain_json.cut(
        pa.array(lines, pa.binary()), lambda _: True, lambda names: [False] * len(names)
    )
    assert [part.columns.keys() for part in found] == [
        {"voltage_v", "cell"}, {"temp", "note"},
    ]  # fmt: skip


def test_a_pickled_table_holds_each_value_once():
    lines = [b'{"voltage_v":%d.5,"current_a":1.25,"temp":2,"test_id":"%d"}' % (row, row)
             for row in range(plain_json.FEWEST)]  # fmt: skip
    table = decode(messages(lines))[0].table
    assert len(pickle.dumps(table)) < table.nbytes + 4_000


@pytest.mark.parametrize("first", [b"%d", b"%d.0", b"null", b'"%d"', b"true"])
def test_values_of_another_kind_further_on_in_a_batch_become_the_same_on_both_ways(first):
    for second in (b"%d", b"%d.0", b"null", b'"%d"', b"true"):
        # In two parts, each of one kind.
        values = [part.replace(b"%d", b"%d" % row) for part in (first, second) for row in range(80)]
        lines = [b'{"voltage_v":3.5,"cyc":1,"pressure":%b}' % value for value in values]
        decoding.compare(messages(lines), fewest=20, at_once=1_000)
