"""Other engines run the same command with the same tables: Prism, and Flink where it can be had."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from kafka import KafkaProducer

from pipeline.publish import main as publish
from tests.endurance.checks import messages
from tests.running import TABLES, Ran, run, same_live_tables, same_tables
from tests.services.engines import Prism, flink_job_server
from tests.services.fixtures import available
from tests.services.kafka import Broker

pytestmark = [pytest.mark.integration, pytest.mark.long]

FLEET = "simulator:?equipment=8&readings=20000&interval=30&faults=0.02&duplicates=0.02&late=0.05"
# A reading a second of each; and what is sent beside them to be refused.
STREAM = "simulator:?equipment=40&readings=60000&interval=1"
READINGS = 60_000
THERE_BEFORE = 30_000
REFUSED = 40
MESSAGES = READINGS + REFUSED
PARTITIONS = 4
# Two windows of each half are over while the job runs; the fifth is open when it is drained.
WINDOW = "--window=300"
NOW = "--until=latest"
# Whoever waits longer waits in vain, on a busy machine too.
SECONDS = 240


@pytest.fixture(scope="session")
def flink() -> list[str]:
    """The flags that bring a job to Flink, in the job server's own process."""
    jar = available(flink_job_server)
    return ["--runner=FlinkRunner", f"--flink_job_server_jar={jar}", "--parallelism=1"]


@pytest.fixture(params=["prism", "flink"], scope="module")
def engine(request: pytest.FixtureRequest) -> list[str]:
    """The flags that bring a job to the engine."""
    found = request.getfixturevalue(request.param)
    return found.flags if isinstance(found, Prism) else found


@dataclass
class Live:
    """A live job in a process of its own."""

    process: subprocess.Popen[bytes]
    target: Path

    @property
    def told(self) -> str:
        """What it printed."""
        return (self.target / "out").read_text()

    @property
    def read(self) -> int:
        """How many messages its last account line has."""
        found = re.findall(r"^so far: read ([\d,]+)", self.told, re.MULTILINE)
        return int(found[-1].replace(",", "")) if found else 0

    @property
    def in_lake(self) -> int:
        """How many readings the lake holds."""
        paths = (self.target / "lake" / "readings").rglob("*.parquet")
        return sum(pq.read_metadata(path).num_rows for path in paths)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Waits until `holds()`."""
        ends = time.monotonic() + SECONDS
        while not holds():
            assert self.process.poll() is None, self.errors
            assert time.monotonic() < ends, f"{what} within {SECONDS} s; {self.told}{self.errors}"
            time.sleep(0.1)

    @property
    def errors(self) -> str:
        """What it printed to standard error."""
        return (self.target / "err").read_text()

    def drained(self) -> Ran:
        """Asks it to come to its end, as Ctrl-C does, and waits for that."""
        self.process.send_signal(signal.SIGINT)
        status = self.process.wait(SECONDS)
        return Ran(status, self.told, self.errors, self.target / "lake",
                   self.target / "warehouse.duckdb")  # fmt: skip


@contextlib.contextmanager
def live(target: Path, source: str, flags: Sequence[str]) -> Iterator[Live]:
    """The live job; killed at the end if it still runs."""
    target.mkdir()
    command = [
        sys.executable, "-m", "pipeline", f"--source={source}", f"--lake={target / 'lake'}",
        f"--warehouse=duckdb:{target / 'warehouse.duckdb'}", "--account_every=0.5",
        "--no_progress", "--lake_file_wait=2", WINDOW, *flags,
    ]  # fmt: skip
    with (target / "out").open("wb") as out, (target / "err").open("wb") as err:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
    try:
        yield Live(process, target)
    finally:
        process.kill()
        process.wait()


def send(broker: Broker, topic: str, position: Path, *flags: str) -> None:
    """Publishes STREAM from where it was left, in order of event time."""
    assert publish(
        [f"--source={STREAM}", f"--to=kafka://{broker.bootstrap}/{topic}", "--order=time",
         f"--resume={position}", "--no_progress", *flags]
    ) == 0  # fmt: skip


def send_refused(broker: Broker, topic: str) -> None:
    """Sends messages that can't become readings, to all partitions."""
    with KafkaProducer(**broker.client_settings()) as producer:
        for number in range(REFUSED):
            producer.send(topic, b"no reading %d" % number, partition=number % PARTITIONS)


def committed(broker: Broker, group: str) -> dict[int, int]:
    """The group's offset of every partition."""
    with broker.admin() as admin:
        found = admin.list_group_offsets({group: None})[group]
    return {part.partition: kept.offset for part, kept in found.items()}


@dataclass(frozen=True)
class Stream:
    """A topic with STREAM, and what live jobs left that read it while it was written.

    Attributes:
        broker: the broker.
        topic: the topic's name.
        engine: the flags that bring a job to the engine.
        there: live jobs' outcomes, on the local runner and on the engine.
    """

    broker: Broker
    topic: str
    engine: list[str]
    direct: Ran
    there: Ran

    def uri(self, group: str) -> str:
        """The topic as a source; every group reads all of it."""
        return source(self.broker, self.topic, group)


def source(broker: Broker, topic: str, group: str) -> str:
    # The last windows stay open for a minute after the last reading.
    return f"kafka://{broker.bootstrap}/{topic}?group={group}&disorder=60"


@pytest.fixture(scope="module")
def stream(kafka: Broker, prism: Prism, tmp_path_factory: pytest.TempPathFactory) -> Stream:
    """Both jobs run while the second half is published; both are drained when they have all."""
    engine = prism.flags
    folder, topic = tmp_path_factory.mktemp("stream"), kafka.new_topic("engines", PARTITIONS)
    send(kafka, topic, folder / "position", f"--limit={THERE_BEFORE}")
    with (
        live(folder / "direct", source(kafka, topic, "direct"), ["--runner=DirectRunner"]) as one,
        live(folder / "engine", source(kafka, topic, "engine"), engine) as other,
    ):
        jobs = (one, other)
        for job in jobs:
            job.until(lambda job=job: job.in_lake > 0, "no window fired")
        send_refused(kafka, topic)
        send(kafka, topic, folder / "position", "--rate=10000")
        for job in jobs:
            job.until(lambda job=job: job.in_lake > THERE_BEFORE, "no later window fired")
            job.until(lambda job=job: job.read == MESSAGES, "not everything was read")
        before = [job.in_lake for job in jobs]
        ran = [job.drained() for job in jobs]
        assert all(job.in_lake > then for job, then in zip(jobs, before, strict=True)), before
    return Stream(kafka, topic, engine, *ran)


def test_a_fleet_has_the_same_tables(engine: list[str], tmp_path: Path) -> None:
    direct = run(tmp_path / "direct", FLEET)
    ran = run(tmp_path / "engine", FLEET, *engine)
    assert (ran.status, ran.account()) == (0, direct.account()), ran.err
    same_tables(direct, ran)


def test_windows_fire_while_a_topic_grows_and_a_drained_job_has_the_same_tables(
    stream: Stream,
) -> None:
    for ran in (stream.direct, stream.there):
        assert ran.status == 0, ran.out + ran.err
        assert ran.account() == {
            "read": MESSAGES,
            "written": READINGS,
            "duplicates": 0,
            "dead_letters": REFUSED,
        }
    same_live_tables(stream.direct, stream.there)


def test_old_and_new_readings_are_written_in_time(
    kafka: Broker, engine: list[str], tmp_path: Path
) -> None:
    # On four partitions: two of now, five of a year ago; two partitions have the old ones alone.
    topic = kafka.new_topic("old_and_new", PARTITIONS)
    now = time.time()
    sent = [(f"new_{at}", now, at) for at in (0, 1)]
    sent += [(f"old_{at}", now - 365 * 86_400 + at, at % PARTITIONS) for at in range(5)]
    with KafkaProducer(**kafka.client_settings()) as producer:
        for equipment, seconds, partition in sent:
            value = {"equipment_id": equipment, "recorded_at": seconds, "voltage_v": 3.7,
                     "current_a": 1.0}  # fmt: skip
            producer.send(topic, json.dumps(value).encode(), partition=partition)
    flags = [*engine, "--window=10"]
    uri = f"kafka://{kafka.bootstrap}/{topic}?group={topic}"
    with live(tmp_path / "live", uri, flags) as job:
        job.until(lambda: job.read == len(sent), "all read")
        read_at = time.monotonic()
        job.until(lambda: job.in_lake == len(sent), "all in the lake")
        # Its readers are in this process, and tell how far they are.
        known = r"lag 0, watermark [\d,.]+ s behind"
        job.until(lambda: re.search(known, job.told) is not None, "how far it is")
        # The window, what comes out of order, and 30 s besides; as much again where others work.
        assert time.monotonic() - read_at < 2 * (10 + 5 + 30)
        ran = job.drained()
    assert ran.status == 0 and len(ran.sql("SELECT * FROM readings")) == len(sent)
    assert ran.account()["read"] == ran.account()["written"] == len(sent)
    assert sum(committed(kafka, topic).values()) == len(sent)


def test_the_raw_archive_has_every_message_once(stream: Stream) -> None:
    sent = {
        f"{stream.topic}/{row['partition']}/{row['offset']}": row["payload"]
        for table in messages(stream.broker, stream.topic)
        for row in table.select(["partition", "offset", "payload"]).to_pylist()
    }
    kept = pq.read_table(stream.there.lake / "raw", columns=["position", "payload"]).to_pylist()
    assert len(kept) == len(sent) == MESSAGES
    assert {row["position"]: row["payload"] for row in kept} == sent


def test_offsets_are_committed_when_the_job_was_drained(stream: Stream) -> None:
    there = committed(stream.broker, "engine")
    assert there == committed(stream.broker, "direct")
    assert len(there) == PARTITIONS
    assert sum(there.values()) == MESSAGES


def test_every_offset_is_accounted_for(stream: Stream) -> None:
    for ran in (stream.direct, stream.there):
        found = ran.sql(
            "SELECT partition_number, first_offset, last_offset, messages_read, reason "
            "FROM source_positions ORDER BY 1, 2"
        )
        at = dict.fromkeys(range(PARTITIONS), 0)
        for partition, first, last, read, reason in found:
            assert (first, reason, read) == (at[partition], None, last + 1 - first)
            at[partition] = last + 1
        assert sum(at.values()) == MESSAGES


def test_what_is_there_now_has_the_same_tables(stream: Stream, tmp_path: Path) -> None:
    direct = run(tmp_path / "direct", stream.uri("direct-now"), WINDOW, NOW)
    ran = run(tmp_path / "engine", stream.uri("engine-now"), WINDOW, NOW, *stream.engine)
    assert (ran.status, ran.account()) == (0, direct.account()), ran.err
    assert direct.account() == stream.direct.account()
    same_tables(direct, ran)
    same_live_tables(stream.there, ran)
    assert committed(stream.broker, "engine-now") == committed(stream.broker, "engine")


def test_a_job_that_has_nothing_left_to_read_changes_nothing(stream: Stream) -> None:
    before = {name: stream.there.table(name, key) for name, key in TABLES.items()}
    again = run(stream.there.lake.parent, stream.uri("engine"), WINDOW, NOW, *stream.engine)
    assert again.status == 0, again.err
    assert again.account()["read"] == 0
    assert all(again.table(name, key).equals(before[name]) for name, key in TABLES.items())


def test_a_file_that_gave_nothing_is_named_on_every_engine(
    engine: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    head = "equipment_id,recorded_at,voltage_v,current_a\n"
    (folder / "good.csv").write_text(f"{head}a,2024-05-01T00:00:00Z,3.7,1\n")
    (folder / "bad.csv").write_text(f"{head}a,2024-05-01T00:00:00Z,oops,1\n" * 2)
    ran = run(tmp_path / "out", folder, *engine)
    assert ran.status == 1
    complaint = ran.err[ran.err.index("error: 1 file gave no reading; see dead_letters") :]
    # Flink's job server hands on numbers alone.
    assert "\n  in/bad.csv: " in complaint or "flink_job_server" in str(engine)
