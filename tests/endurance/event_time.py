"""Readings of any date on any partition: each is written in time, whatever the others' dates are."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime

from kafka import KafkaProducer

from tests.endurance.rig import Rig

# Beyond the end of its window, what comes out of order and what is waited for besides.
_BOUND_S = 5 + 30
_YEAR_S = 365 * 86_400


def bound_s(rig: Rig) -> float:
    """How long a reading may take.

    In short, beside other tests, twice as long: there it is shown that nothing waits for ever.
    """
    return (rig.window_s + _BOUND_S) * (1 if rig.pace >= 1 else 2)


def _send(rig: Rig, *readings: tuple[str, float, int]) -> None:
    """Sends readings: (equipment, seconds from now, partition)."""
    with KafkaProducer(**rig.broker.client_settings(), metrics_enabled=False) as producer:
        for number, (equipment, seconds, partition) in enumerate(readings):
            at = datetime.fromtimestamp(time.time() + seconds, UTC)
            value = {
                "equipment_id": equipment,
                "recorded_at": at.isoformat(),
                "voltage_v": 3.5 + number / 1000,
                "current_a": 1.0,
            }
            producer.send(rig.topic, json.dumps(value).encode(), partition=partition)
        producer.flush()


def _in_time(rig: Rig, seconds: float) -> dict[str, int]:
    """What has come is committed, so every sink has it, within `seconds` from now."""
    began = time.monotonic()
    rig.read_to(rig.ends(), patience_s=300)
    took = time.monotonic() - began
    rig.figures["took_s"] = max(rig.figures.get("took_s", 0), took)
    return {"not_in_time": round(took)} if took > seconds else {}


def old_and_new(rig: Rig) -> dict[str, int]:
    """Two readings of now and five of a year ago on four partitions, and then nothing more."""
    _send(
        rig,
        *((f"new_{number}", -1.0, number) for number in (0, 1)),
        *((f"old_{number}", number - _YEAR_S, number % 4) for number in range(5)),
    )
    job = rig.job()
    rig.until(job.has_read, 120, "the job reads nothing")
    wrong = _in_time(rig, bound_s(rig))
    return wrong | rig.finish(job)


def ahead_and_behind(rig: Rig) -> dict[str, int]:
    """One device dates what it sends 4 minutes ahead, one 10 minutes late where nothing else comes."""
    job = rig.job()
    _send(rig, *((f"begins_{number}", -1.0, number) for number in range(4)))
    rig.until(job.has_read, 120, "the job reads nothing")
    rig.wait(20)
    wrong: dict[str, int] = {}
    for _ in range(2):
        _send(rig, ("ahead", 240.0, 0), ("late", -600.0, 1), ("now", 0.0, 2))
        wrong |= _in_time(rig, bound_s(rig))
    return wrong | rig.finish(job)


def added_partition(rig: Rig) -> dict[str, int]:
    """A partition that is added while the job runs gives a little; another one gives nothing."""
    job = rig.job()
    _send(rig, *((f"begins_{number}", -1.0, number) for number in range(4)))
    rig.until(job.has_read, 120, "the job reads nothing")
    rig.wait(20)
    with rig.broker.admin() as admin:
        admin.create_partitions({rig.topic: rig.partitions + 2})
    time.sleep(1)
    _send(
        rig,
        *((f"added_{number}", number - 20.0, rig.partitions + 1) for number in range(20)),
        *((f"now_{number}", 0.0, number) for number in range(4)),
    )
    return _in_time(rig, bound_s(rig)) | rig.finish(job)


def stragglers(rig: Rig) -> dict[str, int]:
    """One old reading a second makes nobody else wait: latency is as it was before them."""
    rig.producer()
    job = rig.job()
    rig.reading()
    without = _latencies(rig, ())
    with_them = _latencies(rig, (("straggler", -3_600.0, 1),))
    rig.figures |= {"p99_without_s": max(without), "p99_with_s": max(with_them)}
    wrong = rig.finish(job)
    # A line is of one second, and a file takes its time: seconds are no finer than that.
    return wrong | ({"slower": 1} if max(with_them) > 1.1 * max(without) + 1 else {})


def _latencies(rig: Rig, sent: tuple[tuple[str, float, int], ...]) -> list[float]:
    """The p99 of each account line of a while, in which `sent` is sent every second."""
    told = rig.jobs[-1].told
    until = time.monotonic() + max(60 * rig.pace, 3 * rig.window_s)
    while time.monotonic() < until:
        if sent:
            _send(rig, *sent)
        time.sleep(1)
    lines = rig.jobs[-1].told[len(told) :]
    return [float(found.replace(",", "")) for found in re.findall(r"p99 ([\d,.]+) s", lines)]
