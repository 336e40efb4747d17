"""Values of every coder of ours that crosses a shuffle, encoded as on the way, to be decoded later."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from apache_beam import coders
from apache_beam.runners.pipeline_context import PipelineContext
from apache_beam.utils.windowed_value import PANE_INFO_UNKNOWN

from tests.stable.fingerprint import coder_text
from tests.stable.graphs import Graph
from transforms.batch import PackedBatch, PackedBatchCoder, TableCoder

_TABLE = pa.table(
    {
        "equipment_id": pa.array(["CS2_35", "CS2_35", None]).dictionary_encode(),
        "recorded_at": pa.array([0, 1_000_000, None], pa.timestamp("us", "UTC")),
        "voltage_v": [3.7, None, 3.9],
        "cycle_index": pa.array([1, 2, None], pa.int64()),
        "payload": [b"\x00\xff", None, b""],
    }
)


def coders_of(graph: Graph) -> dict[str, coders.Coder]:
    """By its text every coder of the graph's collections that holds one of ours."""
    components = graph.proto.components
    context = PipelineContext(components)
    found = {}
    for collection in components.pcollections.values():
        text = coder_text(components, collection.coder_id)
        if any(ours.__name__ in text for ours in (PackedBatchCoder, TableCoder)):
            found[text] = context.coders.get_by_id(collection.coder_id)
    return found


def sample(coder: coders.Coder) -> Any:
    """A value for a coder.

    TypeError: nobody has said what a value of it looks like.
    """
    if isinstance(coder, coders.TupleCoder):
        return tuple(sample(each) for each in coder.coders())
    if isinstance(coder, coders.IterableCoder):
        return [sample(coder.value_coder())]
    for kind, value in (
        (PackedBatchCoder, PackedBatch(_TABLE)),
        (TableCoder, _TABLE),
        (coders.VarIntCoder, 1_717_243_200_000_000),
        (coders.StrUtf8Coder, "2024-06-01/ä"),
        (coders.NullableCoder, None),
        (coders.coders.PaneInfoCoder, PANE_INFO_UNKNOWN),
    ):
        if isinstance(coder, kind):
            return value
    raise TypeError(f"a value for {coder}: add one to tests/stable/values.py")


def shown(value: Any) -> Any:
    """A value as a person can read and JSON can hold it."""
    if isinstance(value, PackedBatch):
        return {"packed": shown(value.table)}
    if isinstance(value, pa.Table):
        columns = {field.name: str(field.type) for field in value.schema}
        return {
            "columns": columns,
            "rows": [list(map(repr, row.values())) for row in value.to_pylist()],
        }
    if isinstance(value, (tuple, list)):
        return [shown(each) for each in value]
    return value if isinstance(value, (str, int)) else repr(value)
