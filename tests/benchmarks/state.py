"""What a live job on Flink keeps in state, and how fast it is, for fleets that are hard to share out."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from kafka import KafkaProducer

from tests.benchmarks.engines import running
from tests.services.engines import flink_job_server
from tests.services.kafka import Broker, kafka_broker
from tests.services.processes import Unavailable, free_port

PARTITIONS = 4
_BEGAN_S = 1_704_067_200  # 2024-01-01
_DAY_S = 86_400

# (equipment, seconds since 1970)
_Readings = Iterator[tuple[str, float]]


def _alike(equipments: int, readings: int) -> _Readings:
    """A reading a second of each."""
    for number in range(readings):
        yield f"cell_{number % equipments:06}", _BEGAN_S + number // equipments


def _one_hot(readings: int) -> _Readings:
    """One of 51 sends 100 readings a second."""
    for number in range(readings):
        second, turn = divmod(number, 150)
        hot = turn < 100
        yield (
            ("hot", _BEGAN_S + second + turn / 100)
            if hot
            else (f"cell_{turn:06}", _BEGAN_S + second)
        )


def _silent(readings: int) -> _Readings:
    """45,000 were heard of four days ago; 5,000 send."""
    for number in range(45_000):
        yield f"silent_{number:06}", _BEGAN_S - 4 * _DAY_S
    yield from _alike(5_000, readings - 45_000)


SHAPES: dict[str, Callable[[int], _Readings]] = {
    "50 equipments": partial(_alike, 50),
    "one of 51 sends 100 times as much": _one_hot,
    "nine of ten silent for days": _silent,
    "500,000 equipments": partial(_alike, 500_000),
}


def measure(scratch: Path, readings: int) -> None:
    """Prints for each fleet: readings a second, size and duration of checkpoints, memory.

    Args:
        scratch: an empty folder.
        readings: of each fleet.
    """
    try:
        jar = flink_job_server()
        broker = kafka_broker(scratch / "kafka")
    except Unavailable as reason:
        print(f"state: not measured ({reason})")
        return
    with broker:
        for name, parts in SHAPES.items():
            sent = {"N": readings, "HALF": readings // 2, "MANY": max(readings, 1_000_000)}
            topic, total = _published(broker, [part.format(**sent) for part in parts])
            print(
                f"{name}: {_one(scratch / topic.rpartition('/')[2], topic, total, jar)}", flush=True
            )


def _published(broker: Broker, readings: _Readings) -> str:
    name = broker.new_topic("state", PARTITIONS)
    with KafkaProducer(**broker.client_settings(), linger_ms=20, batch_size=1 << 17) as producer:
        for number, (equipment, at_s) in enumerate(readings):
            value = (
                f'{{"equipment_id": "{equipment}", "recorded_at": {at_s:.3f}, '
                f'"voltage_v": {3.5 + number % 500 / 1000}, "current_a": 1.0}}'
            )
            producer.send(name, value.encode(), key=equipment.encode())
    return f"kafka://{broker.bootstrap}/{name}"


def _one(out: Path, topic: str, total: int, jar: Path) -> str:
    conf, port = out.parent / f"{out.name}-conf", free_port()
    conf.mkdir(parents=True)
    (conf / "config.yaml").write_text(
        f"rest.port: {port}\nrest.bind-port: {port}\nrest.address: 127.0.0.1\n"
        "rest.bind-address: 127.0.0.1\nmetrics.fetcher.update-interval: 1000\n"
        f"state.checkpoints.dir: {(conf / 'checkpoints').as_uri()}\n"
    )
    flags = ["--runner=FlinkRunner", f"--flink_job_server_jar={jar}", "--parallelism=1",
             f"--flink_conf_dir={conf}", "--checkpointing_interval=3000", "--lake_file_wait=5",
             f"--source={topic}?group={out.name}&disorder=60"]  # fmt: skip
    with running(out, flags) as run:
        began = time.monotonic()
        run.until(lambda: run.figure("written") >= total)
        seconds = time.monotonic() - began
        time.sleep(10)  # what is remembered, and no more, is in the next checkpoints
        told = _checkpoints(port)
    return f"{total / seconds:,.0f} readings/s; {told}; memory {run.peak_mb:,.0f} MiB at most"


def _checkpoints(port: int) -> str:
    def get(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return json.load(answer)

    (job,) = [each for each in get("/jobs")["jobs"] if each["status"] == "RUNNING"]
    found = get(f"/jobs/{job['id']}/checkpoints")
    summary, latest = found["summary"], found["latest"]["completed"]
    return (
        f"checkpoint {latest['state_size'] / 2**20:,.1f} MiB when all is written, "
        f"{summary['state_size']['max'] / 2**20:,.1f} at most; "
        f"{summary['end_to_end_duration']['avg'] / 1000:.1f} s in the mean, "
        f"{summary['end_to_end_duration']['max'] / 1000:.1f} at most"
    )
