"""Dead letters and predictions as messages of a topic: none is larger than a topic takes."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import orjson
import pyarrow as pa
import pytest

from pipeline.connect.topics import _message
from pipeline.sinks.topic.sink import messages, prediction_messages
from schemas.forms import arrow_schema
from schemas.reading import PREDICTION
from transforms.dead_letter import DeadLetter, table

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def letter(**changes: Any) -> DeadLetter:
    return DeadLetter(**{"step": "decode", "error_type": "e", "error_message": "m",
                         "source": "kafka://b/t", "ingested_at_us": 5, **changes})  # fmt: skip


@pytest.mark.parametrize(
    ("payload", "attributes", "key", "left_out"),
    [
        (10, 10, 10, []),
        (1_000_001, 10, 10, ["payload"]),
        (200_000, 900_000, 10, ["payload"]),
        (200_000, 1_000_001, 10, ["payload", "attributes"]),
        (10, 1_000_000, 1_000_001, ["payload", "attributes", "message_key"]),
    ],
)
def test_what_a_topic_does_not_take_is_left_out(
    payload: int, attributes: int, key: int, left_out: list[str]
) -> None:
    theirs = json.dumps({"h": "v" * (attributes - 9)})
    found = messages(
        table([letter(payload=b"x" * payload, attributes=theirs, message_key=b"k" * key)])
    ).to_pylist()[0]
    told = json.loads(found["attributes"])
    assert [name.removesuffix("_bytes") for name in told if name.endswith("_bytes")] == left_out
    assert ("h" in told) is ("attributes" not in left_out)
    sizes = [len(found[name] or b"") for name in ("payload", "key", "attributes")]
    assert sum(sizes) < 1_010_000


def test_pubsub_gets_no_more_attributes_than_it_takes() -> None:
    theirs = {f"a{at}": "ä" * 2000 for at in range(5000)}
    ours = table([letter(attributes=json.dumps(theirs), message_key="é".encode() * 3000)])
    found = messages(ours).to_pylist()[0]
    message = _message(found["payload"], found["key"], found["attributes"], ordered=True)
    assert len(message.attributes) <= 100
    assert message.attributes["error_type"] == "e"
    assert max(len(value.encode()) for value in message.attributes.values()) <= 1024
    assert len(message.ordering_key.encode()) <= 1024


def test_predictions_are_messages_that_say_what_is_known() -> None:
    row = {field.name: None for field in arrow_schema(PREDICTION)} | {
        "prediction_id": "p", "equipment_id": "cell 1", "cycle_id": "c", "cycle_number": 7,
        "cycle_ended_at": START, "made_at": START, "model": "m", "model_version": "v",
        "soh": 0.93, "threshold_soh": 0.8, "out_of_domain": False, "reasons": ["too_little_history"],
    }  # fmt: skip
    table = pa.Table.from_pylist([row], schema=arrow_schema(PREDICTION))
    (message,) = prediction_messages(table).to_pylist()
    assert message["key"] == b"cell 1"
    told = orjson.loads(message["payload"])
    assert told["soh"] == 0.93 and told["reasons"] == ["too_little_history"]
    assert "remaining_cycles" not in told
    assert dt.datetime.fromisoformat(told["cycle_ended_at"]) == START
