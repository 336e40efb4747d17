"""The live job on a Kafka topic against what else one could write for the same work."""

from __future__ import annotations

import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
from kafka import KafkaProducer

from pipeline import __main__ as command
from pipeline.connect.kafka import KafkaAddress
from pipeline.running.watch import LATENCY
from pipeline.sources.kafka.broker import KafkaBroker
from pipeline.sources.live.reader import Fetched
from tests.benchmarks import live_loop, naive, seed_consumer
from tests.benchmarks.span import Span
from tests.services.kafka import Broker, kafka_broker
from tests.services.processes import Unavailable

PARTITIONS = 4
FLEETS = (50, 5_000)
# Variants that read the whole topic, and those of which fewer messages tell enough.
_WHOLE = ("count", "loop", "job")
_PART = ("naive", "seed")
KINDS = tuple(f"live-{kind}" for kind in (*_WHOLE, *_PART))

Spawn = Callable[[str, str], dict[str, Any]]


def speed(scratch: Path, readings: int, few: int, rounds: int, spawn: Spawn) -> None:
    """Prints the rates and their ratios.

    Args:
        scratch: where the broker keeps its data.
        readings: of each topic.
        few: readings of the naive pipeline and the seed's consumer.
        rounds: how often each variant runs, in turn with the others.
        spawn: runs a variant, by kind and source, in a process of its own.
    """
    try:
        broker = kafka_broker(scratch / "kafka")
    except Unavailable as reason:
        print(f"live: not measured ({reason})")
        return
    with broker:
        print(f"live, Kafka ({broker.kind}) to lake and DuckDB:")
        for equipment in FLEETS:
            topic = publish(broker, equipment, readings)
            runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in (*_WHOLE, *_PART)}
            for _ in range(rounds):
                for kind, done in runs.items():
                    messages = readings if kind in _WHOLE else few
                    done.append(spawn(f"live-{kind}", f"{topic}#{messages}"))
            _tell(equipment, readings, runs)


def publish(broker: Broker, equipment: int, readings: int) -> str:
    """A topic with a fleet's readings as they would arrive, all equipments together.

    One message behind them in each partition lets event time go on, as on a topic that lives: else
    the last windows would wait for the clock.
    """
    name = f"fleet-{equipment}-{uuid.uuid4().hex[:8]}"
    topic = f"kafka://{broker.bootstrap}/{name}"
    simulator = f"simulator:?equipment={equipment}&interval=1&readings={readings}"
    argv = ["-m", "pipeline.publish", f"--source={simulator}", f"--to={topic}", "--order=time",
            f"--create_topic={PARTITIONS}", "--no_progress"]  # fmt: skip
    subprocess.run([sys.executable, *argv], check=True, stdout=subprocess.DEVNULL)
    later = {"recorded_at": "2025-01-01T00:00:00Z", "voltage_v": 3.7, "current_a": 0.0}
    producer = KafkaProducer(**broker.client_settings())
    for part in range(PARTITIONS):
        message = json.dumps({"equipment_id": f"later_{part}", **later}).encode()
        producer.send(name, message, partition=part)
    producer.close()
    return topic


def _tell(equipment: int, readings: int, runs: dict[str, list[dict[str, Any]]]) -> None:
    rates = {kind: statistics.median(r["readings"] / r["seconds"] for r in done)
             for kind, done in runs.items()}  # fmt: skip
    cpu = {kind: statistics.median(r["cpu"] / r["readings"] * 1e6 for r in done)
           for kind, done in runs.items()}  # fmt: skip
    job = rates["job"]
    print(f"{equipment:>6} equipments, {readings:,} readings in {PARTITIONS} partitions:")
    for kind, rate in rates.items():
        spread = sorted(round(r["readings"] / r["seconds"]) for r in runs[kind])
        print(
            f"       {kind:>5} {rate:>9,.0f}/s ({spread[0]:,} to {spread[-1]:,}), "
            f"{cpu[kind]:6.2f} µs of CPU a reading; job = {job / rate:.2f} of it"
            + (f" ({runs[kind][0]['readings']:,} readings)" if kind in _PART else "")
        )
    loop = min(runs["loop"], key=lambda r: abs(r["readings"] / r["seconds"] - rates["loop"]))
    told = ", ".join(f"{n} {s / readings * 1e6:.2f}" for n, s in loop["stages"].items())
    print(f"       the loop's stages, µs of CPU a reading: {told}")
    print(
        f"       the loop wrote {loop['flushes']} times: every {live_loop.FLUSH_S:g} s or "
        f"{live_loop.FLUSH_ROWS:,} readings; the job: whenever windows have closed"
    )
    wall, work = 1e6 / job - 1e6 / rates["loop"], cpu["job"] - cpu["loop"]
    print(f"       what Beam adds: {wall:.2f} µs a reading, {work:.2f} µs of CPU")


def one(kind: str, source: str, out: Path) -> dict[str, Any]:
    """Runs one variant in this process; see `KINDS`.

    Args:
        kind: which.
        source: `kafka://HOST:PORT/TOPIC#MESSAGES`.
        out: an empty folder.
    """
    topic, _, number = source.partition("#")
    messages = int(number)
    address = KafkaAddress.parse(topic, "--source", ())
    span, told = Span(), {}
    # Without Beam there would not be all that Beam imports for the collector to look through.
    gc.collect()
    gc.freeze()
    match kind.removeprefix("live-"):
        case "count":
            live_loop.count(address, messages, span)
        case "loop":
            told["stages"], told["flushes"] = live_loop.run(address, messages, out, span)
            _check(out / "warehouse.duckdb", messages)
        case "job":
            _job(topic, messages, out, span)
            _check(out / "warehouse.duckdb", messages)
        case "naive":
            written = naive.run_live(address, messages, out, span)
            assert written == messages, f"{written} of {messages} readings"
        case "seed":
            seed_consumer.run(address, messages, out, span)
    return {"seconds": span.seconds, "cpu": span.cpu, "readings": messages, **told}


def _check(warehouse: Path, messages: int) -> None:
    with duckdb.connect(str(warehouse), read_only=True) as database:
        query = "SELECT count(*), count(DISTINCT reading_id) FROM readings"
        found = database.execute(query).fetchall()[0]
    assert messages <= found[0] == found[1], f"{found} readings for {messages} messages"


def _job(topic: str, messages: int, out: Path, span: Span) -> None:
    """The job as it is, asked to stop when all readings are in every sink.

    It knows that itself: its latency is that of readings that every sink has made durable.
    """
    fetch = KafkaBroker.fetch

    def noted(broker: KafkaBroker) -> Fetched:
        fetched = fetch(broker)
        if fetched.batch is not None:
            span.begin()
        return fetched

    def stop() -> None:
        while LATENCY.histogram().count < messages:
            time.sleep(0.01)
        span.end()
        os.kill(os.getpid(), signal.SIGINT)

    KafkaBroker.fetch = noted  # type: ignore[method-assign]
    threading.Thread(target=stop, daemon=True).start()
    flags = [f"--source={topic}?group=job-{uuid.uuid4().hex}", f"--lake={out / 'lake'}",
             f"--warehouse=duckdb:{out / 'warehouse.duckdb'}"]  # fmt: skip
    status = command.main(["--runner=DirectRunner", "--no_progress", *flags])
    if status:
        raise SystemExit(status)
