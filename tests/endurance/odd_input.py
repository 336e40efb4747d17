"""What real producers send; every scenario returns what went wrong, by name."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from kafka import KafkaProducer

from tests.endurance.processes import Job
from tests.endurance.rig import Rig

_DISORDER_S = 5

_POISON = (
    b"",
    b"not JSON",
    b'{"equipment_id": "cut off',
    b"\xff\xfe\x00\x80",
    b'{"equipment_id": "\xff\xfe"}',
    b"[1, 2, 3]",
    b"null",
    b"42",
    b"{}",
    b"[" * 100_000,
    b"x" * 3_000_000,
    b'{"note": "' + b"y" * 3_000_000 + b'"}',
    b'{"voltage_v": 3.7, "current_a": 1}',
)


def poison(rig: Rig) -> dict[str, int]:
    """Messages that are no readings, or hardly messages: each one dead letter, nothing stops."""
    rig.producer()
    job = rig.job()
    rig.reading()
    with KafkaProducer(
        **rig.broker.client_settings(), max_request_size=8 << 20, metrics_enabled=False
    ) as producer:
        for number in range(rig.partitions):
            for value in _POISON:
                # Without a key the equipment can't be told from it.
                producer.send(rig.topic, value, partition=number)
            producer.send(rig.topic, None, key=b"tombstone", partition=number)
        producer.flush()
    rig.figures["poison"] = rig.partitions * (len(_POISON) + 1)
    rig.read_to(rig.ends())
    return rig.finish(job)


def keyless(rig: Rig) -> dict[str, int]:
    """Messages have no key, so that an equipment's readings come by all partitions."""
    rig.producer("--keyless")
    job = rig.job()
    rig.reading()
    rig.wait(15)
    return rig.finish(job)


def clock_ahead(rig: Rig) -> dict[str, int]:
    """A producer's clock, and with it its messages' stamps, are 4 minutes ahead."""
    return _with_clock(rig, 240)


def clock_behind(rig: Rig) -> dict[str, int]:
    """A producer's clock is 2 hours behind."""
    return _with_clock(rig, -7200)


def _with_clock(rig: Rig, seconds: int) -> dict[str, int]:
    rig.producer("--prefix=right_")
    rig.producer("--prefix=wrong_", f"--clock={seconds}", "--rate=200")
    # Its readings wait for their window, and with them all later offsets.
    job = rig.job()
    rig.until(job.warehouse.exists, 180, "the job did not start")
    rig.wait(40)
    wrong = rig.finish(job)
    with rig.tables(job) as tables:
        flagged = tables.number(
            "SELECT count(*) FROM readings WHERE list_contains(quality_flags, 'late')"
        )
        # Only the others: whoever is far behind finds all windows released.
        pieces = tables.number(
            "SELECT count(*) - count(DISTINCT (equipment_id, window_start)) "
            "FROM warehouse.window_stats WHERE equipment_id LIKE 'right_%'"
        )
    found = {"flagged_late": flagged, "others_in_pieces": pieces}
    return wrong | {name: number for name, number in found.items() if number}


def late(rig: Rig) -> dict[str, int]:
    """Readings come late: within the allowed lateness in their place, later than that flagged."""
    allowed = 3 * rig.window_s + 2
    in_place = (_DISORDER_S + rig.window_s, _DISORDER_S + allowed - 1)
    # The line moves with what was released last: a window ago, or more on a slow machine.
    too_late = (in_place[1] + rig.window_s + 10, in_place[1] + 2 * rig.window_s + 10)
    rig.producer(f"--late=[{list(in_place)}, {list(too_late)}]", f"--late_after={too_late[1] + 3}")
    job = rig.job(f"--allowed_lateness={allowed}")
    rig.reading()
    time.sleep(too_late[1])
    rig.wait(30)
    wrong = rig.finish(job)
    with rig.tables(job) as tables:
        by_s = "coalesce((extra ->> 'sent_late_s')::DOUBLE, 0)"
        for name, condition in (("in_place", f"{by_s} BETWEEN 1 AND {in_place[1]}"),
                                ("too_late", f"{by_s} >= {too_late[0]}")):  # fmt: skip
            count = f"SELECT count(*) FROM readings WHERE {condition}"
            rig.figures[f"sent_{name}"] = tables.number(count)
        wrong["flags_wrong"] = tables.number(
            "SELECT count(*) FROM readings "
            f"WHERE list_contains(quality_flags, 'late') <> ({by_s} >= {too_late[0]})"
        )
    return {name: number for name, number in wrong.items() if number}


def start_at_time(rig: Rig) -> dict[str, int]:
    """A group without offsets begins at a time: what came before it stays unread."""

    def begin() -> str:
        time.sleep(1)
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    return _started(rig, begin)


def start_at_latest(rig: Rig) -> dict[str, int]:
    """A group without offsets begins at the end; after a crash it goes on where it was."""
    return _started(rig, lambda: "latest")


def _started(rig: Rig, start: Callable[[], str]) -> dict[str, int]:
    rig.producer("--prefix=before_", "--count=20000").wait()
    moment = start()
    job = rig.job(parameters=f"&start={moment}")
    if moment == "latest":
        # Its first offsets are committed as soon as it has them.
        rig.until(lambda: len(rig.committed()) == rig.partitions, 180, "the job did not begin")
    rig.producer("--prefix=after_")
    rig.reading()
    job.kill()
    job.start()
    rig.reading()
    wrong = rig.finish(job, but=("lost", "archive_lost"))
    return wrong | _only_after(rig, job)


def _only_after(rig: Rig, job: Job) -> dict[str, int]:
    with rig.tables(job) as tables:
        wrong = {
            "lost": tables.number(
                "SELECT count(*) FROM sent ANTI JOIN readings USING (equipment_id, recorded_at) "
                "WHERE equipment_id LIKE 'after_%'"
            ),
            "read_from_before": tables.number(
                "SELECT count(*) FROM readings WHERE equipment_id LIKE 'before_%'"
            ),
            "archive_lost": tables.number(
                "SELECT count(*) FROM topic ANTI JOIN archive USING (position) "
                "WHERE equipment_id LIKE 'after_%'"
            ),
        }
    return {name: number for name, number in wrong.items() if number}


def timely(rig: Rig) -> dict[str, int]:
    """Windows are written within window + disorder bound + 2 s of their beginning, all the time."""
    rig.producer()
    job = rig.job()
    rig.reading()
    began_us = int(time.time() * 1e6)
    rig.wait(60)
    ended_us = int(time.time() * 1e6)
    wrong = rig.finish(job)
    waits = sorted(_waits(rig, job, began_us, ended_us))
    bound = _DISORDER_S + 2
    rig.figures |= {"files": len(waits), "longest_s": waits[-1], "bound_s": bound}
    late = sum(wait > bound for wait in waits)
    return wrong | ({"not_in_time": late} if late else {})


def _waits(rig: Rig, job: Job, began_us: int, ended_us: int) -> list[float]:
    """Seconds from the end of a window to the appearance of its readings, for every file."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    waits = []
    for path in (job.lake / "readings").rglob("*.parquet"):
        seen_us = path.stat().st_mtime_ns // 1000
        if began_us <= seen_us <= ended_us:
            times = pq.read_table(path, columns=["recorded_at"], partitioning=None)[0]
            earliest = pc.min(times.cast("int64")).as_py() // (rig.window_s * 1_000_000)
            waits.append(seen_us / 1e6 - (earliest + 1) * rig.window_s)
    return waits
