import pickle

import pyarrow as pa
import pytest
from apache_beam import coders

from tests.messages import messages, reading, rows
from transforms import batch
from transforms.batch import BatchStore, Origin, PackedBatch
from transforms.decode import decode
from transforms.decoded import Decoded

TABLE = pa.table({"a": pa.array(["x", "y", "x"]).dictionary_encode(), "b": [1.0, None, 3.0]})


class ListStore(BatchStore):
    """Keeps everything in a list."""

    def __init__(self):
        self.kept = []

    def put(self, data):
        self.kept.append(data)
        return b"\x01" + bytes([len(self.kept) - 1])

    def get(self, handle):
        return self.kept[handle[1]]


@pytest.fixture
def store():
    found = ListStore()
    batch.use_store(found)
    yield found
    batch.use_store(None)


@pytest.mark.parametrize("arguments", [(), (TABLE, b"x")])
def test_a_packed_batch_is_made_from_one_thing(arguments):
    with pytest.raises(ValueError, match="a table or from encoded bytes"):
        PackedBatch(*arguments)


def test_a_packed_batch_keeps_its_table_and_encodes_once():
    packed = PackedBatch(TABLE)
    assert packed.table is TABLE
    assert packed.handle is packed.handle
    again = PackedBatch(handle=packed.handle)
    assert again.table.equals(TABLE)
    assert again.table is not again.table  # whoever asks owns it
    assert pickle.loads(pickle.dumps(packed)).table.equals(TABLE)


def test_a_store_may_keep_the_bytes_elsewhere(store):
    packed = PackedBatch(TABLE)
    assert packed.handle == b"\x01\x00"
    assert PackedBatch(handle=packed.handle).table.equals(TABLE)
    assert len(store.kept) == 1


def test_handles_of_the_default_store_stay_readable(store):
    batch.use_store(None)
    handle = PackedBatch(TABLE).handle
    batch.use_store(store)
    assert PackedBatch(handle=handle).table.equals(TABLE)


def through(value, kind):
    coder = coders.registry.get_coder(kind)
    assert not coder.is_deterministic()
    assert coder.to_type_hint() is kind
    assert coder.estimate_size(value) > 0
    return coder.decode(coder.encode(value))


def test_beam_gets_every_kind_of_batch_back_unchanged():
    assert through(PackedBatch(TABLE), PackedBatch).table.equals(TABLE)
    assert through(TABLE, pa.Table).equals(TABLE)
    raw = messages([reading()], equipment_id="a")
    assert through(raw, batch.RawBatch) == raw
    decoded, _ = decode(raw)
    assert through(decoded, Decoded) == decoded


def test_a_slice_keeps_its_place_in_the_file():
    raw = rows({"voltage": [1.0, 2.0, 3.0]}, source_file="a/b.csv", first_row=11)
    part = raw.slice(1, 2)
    assert part.table.column("voltage").to_pylist() == [2.0, 3.0]
    assert part.origin == Origin("test://rows", "a/b.csv", raw.origin.arrived_at_us, first_row=12)
    assert part.kind is raw.kind
