"""What the Kafka source does without a broker: raw batches, ranges, Java's settings, its URI."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam import coders
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from pipeline.connect.kafka import KafkaAddress, native_settings
from pipeline.engines import HERE, Engine
from pipeline.engines.dataflow import ENGINE as DATAFLOW
from pipeline.engines.prism import ENGINE as PRISM
from pipeline.errors import ConfigError
from pipeline.shown import address
from pipeline.sources import Told
from pipeline.sources.kafka import native
from pipeline.sources.kafka.bounded import Range, cut, ends
from pipeline.sources.kafka.java import _Pack, consumer_config
from pipeline.sources.kafka.records import Records
from pipeline.sources.kafka.source import KafkaSource
from pipeline.sources.kafka.split import Topic
from tests.properties import use_profile
from transforms.batch import MESSAGES, BatchKind
from transforms.decode import decode

use_profile()

AT_MS = 1_717_243_200_000
PAYLOAD = json.dumps({"time": AT_MS // 1000, "voltage": 3.7}).encode()
ADDRESS = KafkaAddress(("b1:9092", "b2:9093"), "cells")


def record(offset: int, **changes: Any) -> ConsumerRecord:
    """A record as kafka-python gives it."""
    fields = dict.fromkeys(ConsumerRecord._fields) | {"topic": "cells", "offset": offset}
    fields |= {"timestamp": AT_MS, "value": PAYLOAD, "headers": []}
    return ConsumerRecord(**fields | changes)


def packed(*records: ConsumerRecord, partition: int = 3) -> list[dict[str, Any]]:
    batch, counts = Records("cells", "kafka://b/cells").batch(
        {TopicPartition("cells", partition): records}
    )
    assert counts == {partition: len(records)}
    assert batch.table.schema == MESSAGES and batch.kind is BatchKind.MESSAGES
    found: list[dict[str, Any]] = batch.table.to_pylist()
    return found


# --- records ------------------------------------------------------------------------------------


def test_a_message_stands_as_it_was_sent_with_its_place() -> None:
    (found,) = packed(record(17, key=b"B1", value=b"\xff{", timestamp=AT_MS + 1))
    assert (found["payload"], found["key"]) == (b"\xff{", b"B1")
    assert found["position"] == "cells/3/17"
    assert found["arrived_at"].timestamp() == (AT_MS + 1) / 1000
    assert found["attributes"] is found["source_file"] is None


def test_partitions_follow_each_other_in_a_batch() -> None:
    found = {
        TopicPartition("cells", 2): [record(5), record(6, value=None)],
        TopicPartition("cells", 0): [record(9)],
    }
    batch, counts = Records("cells", "kafka://b/cells").batch(found)
    assert list(counts.items()) == [(2, 2), (0, 1)]
    assert batch.table["position"].to_pylist() == ["cells/2/5", "cells/2/6", "cells/0/9"]
    assert batch.table["payload"].to_pylist() == [PAYLOAD, None, PAYLOAD]
    assert batch.origin.source == "kafka://b/cells"
    assert batch.origin.arrived_at_us == AT_MS * 1000


def test_times_that_can_t_be_are_the_time_of_reading() -> None:
    before = time.time() - 0.001
    past, none, ahead = packed(
        record(1), record(2, timestamp=-1), record(3, timestamp=2**52)
    )  # fmt: skip
    after = time.time()
    assert past["arrived_at"].timestamp() == AT_MS / 1000
    assert before <= none["arrived_at"].timestamp() <= after
    assert ahead["arrived_at"] == none["arrived_at"]


def test_a_record_of_kafka_s_first_format_has_no_time_and_came_when_it_was_read() -> None:
    before = time.time() - 0.001
    (found,) = packed(record(1, timestamp=None))
    assert found["arrived_at"] is not None
    assert before <= found["arrived_at"].timestamp() <= time.time()


def test_headers_are_attributes_and_name_the_file() -> None:
    headers = [("source_file", b"CS2_35/a.csv"), ("equipment_id", "Zelle ü".encode()), ("x", None)]
    named, odd = packed(record(1, headers=headers), record(2, headers=[("y", b"\xff")]))
    assert json.loads(named["attributes"]) == {
        "source_file": "CS2_35/a.csv", "equipment_id": "Zelle ü", "x": None
    }  # fmt: skip
    assert named["source_file"] == "CS2_35/a.csv"
    assert json.loads(odd["attributes"]) == {"y": "0xff"} and odd["source_file"] is None


def test_a_reading_without_equipment_has_the_header_s_or_the_key_s() -> None:
    records = [record(1, key=b"B2"), record(2, headers=[("equipment_id", b"B3")], key=b"B2")]
    batch, _ = Records("cells", "kafka://b/cells").batch({TopicPartition("cells", 0): records})
    decoded, rejects = decode(batch)
    assert decoded.table["equipment_id"].to_pylist() == ["B2", "B3"] and not rejects.rows


# --- ranges -------------------------------------------------------------------------------------


def test_ranges_are_cut_and_partitions_take_turns() -> None:
    found = cut([Range(0, 0, 450_000), Range(1, 7, 200_008), Range(2, 5, 5)])
    assert found == [
        Range(0, 0, 200_000),
        Range(1, 7, 200_007),
        Range(0, 200_000, 400_000),
        Range(1, 200_007, 200_008),
        Range(0, 400_000, 450_000),
    ]
    assert cut([]) == []


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 10**6)), max_size=5))
def test_pieces_cover_every_offset_once_and_none_is_large(spans: list[tuple[int, int]]) -> None:
    whole = [Range(number, at, at + size) for number, (at, size) in enumerate(spans)]
    pieces = cut(whole)
    assert all(0 < piece.stop - piece.start <= 200_000 for piece in pieces)
    for each in whole:
        at = each.start
        for piece in pieces:
            if piece.partition == each.partition:
                assert piece.start == at
                at = piece.stop
        assert at == each.stop
    assert ends(whole) == {number: at + size for number, (at, size) in enumerate(spans)}


# --- Java ---------------------------------------------------------------------------------------


def test_java_is_told_where_and_from_when_and_not_to_commit_by_itself() -> None:
    assert consumer_config(ADDRESS, "g", "earliest", {}) == {
        "bootstrap.servers": "b1:9092,b2:9093",
        "group.id": "g",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": "false",
        "isolation.level": "read_committed",
    }
    assert consumer_config(ADDRESS, "g", "latest", {})["auto.offset.reset"] == "latest"
    assert consumer_config(ADDRESS, "g", AT_MS, {})["auto.offset.reset"] == "earliest"
    other = KafkaAddress(ADDRESS.servers, "cells", {"isolation": "read_uncommitted"})
    assert consumer_config(other, "g", "latest", {})["isolation.level"] == "read_uncommitted"


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_java_takes_no_login_since_it_would_stand_in_the_graph(mechanism: str) -> None:
    login = {
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_MECHANISM": mechanism,
        "KAFKA_SASL_USERNAME": "reader",
        "KAFKA_SASL_PASSWORD": "hunter2",
    }
    with pytest.raises(ConfigError, match=r"^KAFKA_SASL_USERNAME, .*drop reader=java$") as raised:
        consumer_config(ADDRESS, "g", "latest", login)
    assert "hunter2" not in str(raised.value)


def test_java_can_t_use_files_that_lie_here(tmp_path: Any) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("")
    surroundings = {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CAFILE": str(file)}
    with pytest.raises(ConfigError, match=r"^KAFKA_SSL_CAFILE, .*drop reader=java$"):
        consumer_config(ADDRESS, "g", "latest", surroundings)
    plain = consumer_config(ADDRESS, "g", "latest", {"KAFKA_SECURITY_PROTOCOL": "SSL"})
    assert plain["security.protocol"] == "SSL" and "sasl.mechanism" not in plain


def row(offset: int, partition: int = 0, headers: Sequence[Any] | None = ()) -> beam.Row:
    """A record with metadata as the Java connector's rows give it."""
    return beam.Row(
        topic="cells",
        partition=partition,
        offset=offset,
        timestamp=AT_MS + offset,
        timestampTypeId=0,
        timestampTypeName="CreateTime",
        headers=headers,
        key=b"B1",
        value=PAYLOAD,
    )


def test_the_connector_s_rows_become_few_batches() -> None:
    pack = _Pack("cells", "kafka://b/cells")
    pack.start_bundle()
    given_rows = [row(n, n % 2) for n in range(12_000)]
    found = [
        value
        for n, each in enumerate(given_rows)
        for value in pack.process(each, Timestamp(20_000 - n))
    ]
    found += pack.finish_bundle()
    assert [value.value.table.num_rows for value in found] == [5_000, 5_000, 2_000]
    assert [value.timestamp for value in found] == [15_001, 10_001, 8_001]  # the earliest
    assert {value.windows for value in found} == {(GlobalWindow(),)}
    offsets = sorted(
        int(text.split("/")[2])
        for value in found
        for text in value.value.table["position"].to_pylist()
    )
    assert offsets == list(range(12_000))
    first = found[0].value.table
    assert first["position"][0].as_py() == "cells/0/0"
    assert first["position"][2_500].as_py() == "cells/1/1"
    assert first["arrived_at"][1].as_py().timestamp() == (AT_MS + 2) / 1000


def test_the_connector_s_headers_are_attributes_too() -> None:
    pack = _Pack("cells", "kafka://b/cells")
    pack.start_bundle()
    header = beam.Row(key="source_file", value=b"a.csv")
    assert list(pack.process(row(1, headers=[header]), Timestamp(0))) == []
    assert list(pack.process(row(2, headers=None), Timestamp(0))) == []
    (found,) = pack.finish_bundle()
    assert found.value.table["source_file"].to_pylist() == ["a.csv", None]
    assert found.value.table["key"].to_pylist() == [b"B1", b"B1"]
    assert list(pack.finish_bundle()) == []


def test_a_bundle_that_failed_leaves_nothing_to_the_next() -> None:
    pack = _Pack("cells", "kafka://b/cells")
    pack.start_bundle()
    list(pack.process(row(1), Timestamp(0)))
    pack.start_bundle()
    assert list(pack.finish_bundle()) == []


# --- the URI ------------------------------------------------------------------------------------


def source(query: str = "", engine: Engine = HERE, until_latest: bool = False) -> KafkaSource:
    return KafkaSource(f"kafka://b1/cells{query}", decode, engine, until_latest, Told())


def test_a_topic_is_read_for_ever_by_one_group_unless_it_says_otherwise() -> None:
    found = source()
    assert (found.name, found.group, found.live) == ("kafka://b1:9092/cells", "battery-pipeline.cells", True)  # fmt: skip
    assert found._former == "battery-pipeline" and source("?group=g")._former is None
    assert (found._start, found._disorder_us, found.total) == ("earliest", 5_000_000, None)
    assert (found.lag, found.watermark_us, found._java) == (None, None, False)
    assert not source(until_latest=True).live
    other = source("?group=g&start=latest&disorder=0.5&reader=python")
    assert (other.group, other._start, other._disorder_us) == ("g", "latest", 500_000)
    assert other.name == found.name  # parameters do not make it another source


@pytest.mark.parametrize(
    "start",
    ["2024-06-01T12:00:00Z", "2024-06-01T12:00", "2024-06-01T14:00:00%2B02:00", "20240601T12"],
)
def test_a_start_may_be_a_time(start: str) -> None:
    assert source(f"?start={start}")._start == AT_MS


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("?start=yesterday", "start=yesterday must be earliest, latest or a time such as 2024-"),
        ("?start=1717243200000", "start=1717243200000 must be earliest, latest or a time"),
        ("?disorder=-1", "disorder=-1 must be 0 to 86400 seconds"),
        ("?disorder=x", "disorder=x must be 0 to 86400 seconds"),
        ("?isolation=x", "isolation=x must be read_committed or read_uncommitted"),
        ("?transaction_wait=-1", "transaction_wait=-1 must be 0 to 3600 seconds"),
        ("?transaction_wait=x", "transaction_wait=x must be 0 to 3600 seconds"),
        ("?client=x", "client=x must be kafka-python or librdkafka"),
        ("?reader=go", "reader=go must be python or java"),
        ("?reader=java", "reader=java is for live reading on Dataflow or Flink; drop it"),
        (
            "?offset=3",
            (
                "no such parameter 'offset'; valid are client, disorder, group, isolation, reader, secret, "
                "start, transaction_wait"
            ),
        ),
        ("?group=", "parameter 'group' has no value; give one or drop it"),
        ("?group=a&group=b", "parameter 'group' is given twice; drop one"),
    ],
)
def test_a_wrong_parameter_is_named_with_the_flag_and_the_fix(query: str, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        source(query)
    assert str(raised.value).startswith(f"--source={address(f'kafka://b1/cells{query}')}: {says}")


def test_java_reads_live_and_only_where_an_engine_keeps_what_was_read() -> None:
    assert source("?reader=java", DATAFLOW)._java
    assert not source("?reader=python", DATAFLOW)._java
    for engine, until_latest in ((PRISM, False), (DATAFLOW, True), (HERE, True)):
        with pytest.raises(ConfigError, match="drop it"):
            source("?reader=java", engine, until_latest)


def test_a_client_that_is_not_installed_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native, "rd", None)
    with pytest.raises(ConfigError, match=r"client=librdkafka .*pip install confluent-kafka"):
        source("?client=librdkafka")
    assert source().live


def test_librdkafka_is_told_the_same_login_and_certificates(tmp_path: Path) -> None:
    file = tmp_path / "cert.pem"
    file.write_text("")
    assert native_settings({}) == {}
    surroundings = {
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "KAFKA_SASL_USERNAME": "reader",
        "KAFKA_SASL_PASSWORD": "hunter2",
        "KAFKA_SSL_CERTFILE": str(file),
        "KAFKA_SSL_CHECK_HOSTNAME": "false",
    }
    found = native_settings(surroundings)
    assert found == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "reader",
        "sasl.password": "hunter2",
        "ssl.certificate.location": str(file),
        "ssl.key.location": str(file),
        "ssl.ca.location": "probe",
        "ssl.endpoint.identification.algorithm": "none",
    }


# A (topic, partition) as a job of release 1.0 hands it on, when it is updated in place.
HANDED_ON = (
    "BgL/xgWABZW7AgAAAAAAAIwccGlwZWxpbmUuc291cmNlcy5rYWZrYV9zcGxpdJSMBVRvcGljlJOUKYGUfZQojAdhZGRy"
    "ZXNzlIwWcGlwZWxpbmUuY29ubmVjdC5rYWZrYZSMDEthZmthQWRkcmVzc5STlCmBlH2UKIwJYm9vdHN0cmFwlIwLYnJv"
    "a2VyOjkwOTKUhZSMBXRvcGljlIwIcmVhZGluZ3OUjApwYXJhbWV0ZXJzlH2UdWKMBWdyb3VwlIwZYmF0dGVyeS1waXBl"
    "bGluZS5yZWFkaW5nc5SMBXN0YXJ0lIwIZWFybGllc3SUjARuYW1llIwca2Fma2E6Ly9icm9rZXI6OTA5Mi9yZWFkaW5n"
    "c5SMC2Rpc29yZGVyX3VzlEpAS0wAjAZkZWNvZGWUjAlmdW5jdG9vbHOUjAdwYXJ0aWFslJOUjBF0cmFuc2Zvcm1zLmRl"
    "Y29kZZRoGZOUhZRSlChoHil9lCiMCXRpbWVfem9uZZSMA1VUQ5SMCWRheV9maXJzdJROjAZidWRnZXSUjBF0cmFuc2Zv"
    "cm1zLmJ1ZGdldJSMBkJ1ZGdldJSTlCmBlH2UKIwLdW5wYWNrZWRfbWKUTQBAjAVyYXRpb5RNkAGMB21lbWJlcnOUTSBO"
    "jAdoZWxkX21ilE0AAYwHY29sdW1uc5RN0AeMBWNlbGxzlEoAG7cAjA1pbl9vcmRlcl9yb3dzlEoAG7cAjAptZXNzYWdl"
    "X2tilE0AEIwFbmFtZXOUTegDjAR0ZXh0lE0AAnVijAtiaW5hcnlfa2V5c5SMA2hleJR1TnSUYowKcGFydGl0aW9uc5RL"
    "A4wHY29tbWl0c5SIaCVoKYwGZm9ybWVylIwQYmF0dGVyeS1waXBlbGluZZSMCWNvbXBhY3RlZJSJjANydW6UjBkyMDI2"
    "MDEwMVQwMDAwMDBaLTBiYWRjYWZllHViLgEC"
)


def test_a_job_that_is_updated_in_place_goes_on_with_its_topics() -> None:
    topic, partition = coders.FastPrimitivesCoder().decode(base64.b64decode(HANDED_ON))
    assert type(topic) is Topic and partition == 2
    assert (topic.group, topic.partitions, topic.commits) == ("battery-pipeline.readings", 3, True)
    assert topic.address.bootstrap == ("broker:9092",) and topic.decode.func is decode
