"""Streams that give each row once, whatever is tried again."""

from __future__ import annotations

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from google.cloud import bigquery as api
from grpc import StatusCode

from pipeline.engines.choose import choose
from pipeline.sinks.bigquery import Address
from pipeline.sinks.bigquery.exactly_once import Appender, WriteOnce
from pipeline.sinks.bigquery.storage_write import Figures
from pipeline.sinks.bigquery.streams import Stream
from schemas.reading import READING
from tests.integration.bigquery.writing import (
    keys,
    prepared,
    run,
    some,
)
from tests.services.bigquery import BigQuery
from tests.services.engines import Prism
from tests.services.faults import FaultyBigQuery

pytestmark = pytest.mark.integration


@pytest.fixture
def appender(emulator: BigQuery, dataset: str) -> Appender:
    prepared(emulator, dataset, "exactly_once")
    address = Address(emulator.project, dataset)
    return Appender(address, READING, "test://source", Figures(READING))


@pytest.mark.long
def test_a_lost_answer_writes_each_row_once(
    emulator: BigQuery, dataset: str, through: FaultyBigQuery, client: api.Client
) -> None:
    target = prepared(emulator, dataset, "exactly_once")
    through.storage.plan("lose", where="AppendRows", times=3)
    through.storage.plan("lose", where="FlushRows", times=2)
    parts = [some(READING, 30, seed=seed) for seed in range(3)]
    run(target, {"readings": parts})
    assert through.storage.done["lose"] == 5
    assert keys(client, dataset) == sorted(f"{s}-{row:06}" for s in range(3) for row in range(30))


def test_a_bundle_that_is_tried_again_writes_each_row_once(
    appender: Appender, dataset: str, client: api.Client
) -> None:
    """A bundle that fails after its appends finds the state as it was, with other elements too."""
    committed, _ = appender.append([], some(READING, 10, seed=1))
    committed = appender.flush(committed)
    appender.append(committed, some(READING, 10, seed=2))  # fails: its state is forgotten
    lost, _ = appender.append(committed, some(READING, 4, seed=3))  # and once more, half way
    appender.append(lost, some(READING, 10, seed=2))
    again, _ = appender.append(committed, some(READING, 10, seed=2))
    again, _ = appender.append(again, some(READING, 4, seed=3))
    assert keys(client, dataset) == [f"1-{row:06}" for row in range(10)]  # nothing committed yet
    flushed = appender.flush(again)
    appender.flush(again)  # the timer is tried again, too
    assert len(flushed) == 1
    last, _ = appender.append(flushed, some(READING, 5, seed=4))
    appender.flush(last)
    assert keys(client, dataset) == sorted(
        f"{seed}-{row:06}" for seed, count in ((1, 10), (2, 10), (3, 4), (4, 5))
        for row in range(count)
    )  # fmt: skip


@pytest.mark.long
def test_a_worker_that_was_given_up_and_still_writes_doubles_nothing(
    appender: Appender, dataset: str, client: api.Client
) -> None:
    committed, _ = appender.append([], some(READING, 10, seed=1))
    ours, _ = appender.append(committed, some(READING, 10, seed=2))
    appender.append(committed, some(READING, 10, seed=2))  # the zombie; nobody takes its state
    appender.append(committed, some(READING, 10, seed=3))
    appender.flush(ours)
    assert keys(client, dataset) == sorted(f"{s}-{row:06}" for s in (1, 2) for row in range(10))


def test_a_stream_that_is_gone_is_replaced(
    appender: Appender, dataset: str, client: api.Client, caplog: pytest.LogCaptureFixture
) -> None:
    gone = Stream(f"projects/p/datasets/{dataset}/tables/readings/streams/expired", 10, 10)
    streams, _ = appender.append([gone], some(READING, 10))
    appender.flush(streams)
    assert len(keys(client, dataset)) == 10
    assert not caplog.records
    appender.flush([gone._replace(flushed=4)])
    assert "a stream is gone with 6 rows" in caplog.text


@pytest.mark.long
def test_an_engine_that_keeps_state_has_each_row_once(
    emulator: BigQuery, dataset: str, through: FaultyBigQuery, client: api.Client, prism: Prism,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """On Prism a bundle that fails is not tried again, but answers are lost."""
    prepared(emulator, dataset, "exactly_once")
    through.storage.plan("lose", where="AppendRows", times=3, after=1)
    through.storage.plan("refuse", where="FlushRows", code=StatusCode.UNAVAILABLE, times=3)
    parts = [some(READING, 30, seed=seed) for seed in range(12)]
    options = PipelineOptions([*prism.flags, "--streaming"])
    pipeline = beam.Pipeline(runner=choose(options), options=options)
    given = pipeline | beam.Create(parts, reshuffle=False).with_output_types(pa.Table)
    _ = given | WriteOnce(Address(emulator.project, dataset), READING, "test://source")
    pipeline.run().wait_until_finish()
    assert keys(client, dataset) == sorted(f"{s}-{row:06}" for s in range(12) for row in range(30))
    assert "a stream is gone" not in caplog.text
