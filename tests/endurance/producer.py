"""python -m tests.endurance.producer: sends readings at a steady rate and notes what arrived."""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from kafka import KafkaProducer

from tests.endurance.devices import Devices

_TICK_S = 0.02


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.endurance.producer", description=__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--log", required=True, type=Path, help="file: a line per acknowledgement")
    parser.add_argument("--rate", type=float, default=2000, help="readings per second")
    parser.add_argument("--seconds", type=float, default=1e9, help="ends by itself after so long")
    parser.add_argument("--count", type=float, default=1e12, help="ends by itself after so many")
    parser.add_argument("--devices", type=int, default=200)
    parser.add_argument("--prefix", default="", help="put before the equipments' names")
    parser.add_argument("--clock", type=float, default=0, help="seconds the clock is ahead")
    parser.add_argument("--partitions", type=json.loads, help="of the topic, as [0, 2]")
    parser.add_argument("--keyless", action="store_true", help="messages carry no key")
    parser.add_argument("--late", type=json.loads, default=[], help="seconds, as [[60, 200]]")
    parser.add_argument("--late_share", type=float, default=0.01)
    parser.add_argument("--late_after", type=float, default=0, help="seconds until the first one")
    return parser


class _Log:
    """A line `partition offset` per acknowledged message, and how many failed."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", buffering=1 << 16)
        self.acknowledged = self.failed = 0

    def took(self, record: Any) -> None:
        self._file.write(f"{record.partition} {record.offset}\n")
        self.acknowledged += 1

    def lost(self, error: BaseException) -> None:
        self.failed += 1
        print(f"not delivered: {error!r}", file=sys.stderr)

    def close(self) -> None:
        self._file.close()


def _late_us(flags: argparse.Namespace, since_s: float) -> int:
    if flags.late and since_s > flags.late_after and random.random() < flags.late_share:
        return round(random.uniform(*random.choice(flags.late)) * 1e6)
    return 0


def _send(flags: argparse.Namespace, log: _Log, stop: threading.Event) -> int:
    devices = Devices(flags.devices, prefix=flags.prefix)
    producer = KafkaProducer(
        bootstrap_servers=flags.bootstrap,
        compression_type="lz4",
        linger_ms=10,
        delivery_timeout_ms=300_000,
        max_block_ms=300_000,
        metrics_enabled=False,
    )
    sent, began = 0, time.monotonic()
    while not stop.is_set() and time.monotonic() < began + flags.seconds and sent < flags.count:
        due = min((time.monotonic() - began) * flags.rate, flags.count)
        while sent < due:
            clock_us = time.time_ns() // 1000 + round(flags.clock * 1e6)
            late_us = _late_us(flags, time.monotonic() - began)
            key, payload = devices.next(clock_us, late_us)
            partition = flags.partitions[sent % len(flags.partitions)] if flags.partitions else None
            stamp_ms = clock_us // 1000 if flags.clock else None  # a client stamps by its clock
            future = producer.send(
                flags.topic, payload, None if flags.keyless else key,
                partition=partition, timestamp_ms=stamp_ms,
            )  # fmt: skip
            future.add_callback(log.took).add_errback(log.lost)
            sent += 1
        stop.wait(_TICK_S)
    producer.flush()
    producer.close()
    return sent


def main() -> int:
    """Sends until SIGTERM; prints what it sent. Exit status 1: not all of it was delivered."""
    flags = _parser().parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log = _Log(flags.log)
    sent = _send(flags, log, stop)
    log.close()
    print(json.dumps({"sent": sent, "acknowledged": log.acknowledged, "failed": log.failed}))
    return 0 if log.acknowledged == sent else 1


if __name__ == "__main__":
    sys.exit(main())
