import hashlib

import numpy as np
import pyarrow as pa

from transforms import identity
from transforms.identity import Identity


def lanes(*columns, rows=2):
    ident = Identity(np.zeros(rows, np.uint64), np.zeros(rows, np.uint64))
    for column in columns:
        ident.absorb_column(column, rows)
    return ident.high.tolist(), ident.low.tolist()


def test_hexadecimal_digits_are_the_two_lanes():
    high = np.array([0, 0x0123456789ABCDEF, 2**64 - 1], np.uint64)
    low = np.array([1, 0xFEDCBA9876543210, 2**64 - 1], np.uint64)
    assert identity.to_hex(high, low).to_pylist() == [
        "0" * 31 + "1", "0123456789abcdeffedcba9876543210", "f" * 32,
    ]  # fmt: skip
    assert identity.to_hex(high[:0], low[:0]).to_pylist() == []


def test_names_start_with_their_digest():
    high, low = identity.of_names(["CS2_35", "ö"])
    for at, name in enumerate(("CS2_35", "ö")):
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        assert int(high[at]).to_bytes(8, "big") + int(low[at]).to_bytes(8, "big") == digest


def test_the_most_names_remembered_are_bounded(monkeypatch):
    monkeypatch.setattr(identity, "_MOST_CACHED", 2)
    monkeypatch.setattr(identity, "_digests", {})
    names = [f"cell_{number}" for number in range(7)]
    high, low = identity.of_names(names)
    assert len(identity._digests) <= 2
    again = [identity.of_names([name]) for name in names]
    assert [part[0][0] for part in again] == high.tolist()
    assert [part[1][0] for part in again] == low.tolist()


def test_shards_are_the_same_in_every_run_and_evenly_filled():
    names = [f"cell_{number}" for number in range(10_000)]
    shards = identity.shards(names, 8)
    assert identity.shards(["cell_0", "cell_1", "CS2_35"], 8).tolist() == [1, 2, 0]
    assert np.bincount(shards, minlength=8).min() > 1_000
    assert set(identity.shards(names, 1).tolist()) == {0}


def test_a_missing_column_a_null_column_and_nulls_are_one():
    missing = lanes(None)
    assert lanes(pa.nulls(2)) == missing
    for kind in (pa.float64(), pa.int64(), pa.string(), pa.timestamp("us", tz="UTC")):
        assert lanes(pa.nulls(2, kind)) == missing
    assert lanes(pa.array([1, None])) != missing
    assert lanes(pa.array([1, None]))[0][1] == missing[0][1]


def test_the_order_of_columns_and_chunks():
    one, other = pa.array([1, 2]), pa.array([2, 1])
    assert lanes(one, other) != lanes(other, one)
    assert lanes(pa.chunked_array([one[:1], one[1:]])) == lanes(one)
    assert lanes(pa.array([0.0, -0.0]))[0][0] == lanes(pa.array([0.0, -0.0]))[0][1]
    text = lanes(pa.array(["a", "b"]))
    assert text[0][0] != text[0][1]
    assert lanes(pa.array([0, 0])) != lanes(None)
