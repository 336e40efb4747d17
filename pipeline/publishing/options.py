"""Turns the publisher's command line into one frozen, validated Publication."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline import failures, options
from pipeline.connect.pubsub import SCHEME as PUBSUB
from pipeline.errors import ConfigError
from pipeline.flags import CommandFlags, shared_flags
from pipeline.options import JobConfig

# The job's own flags that say how a source is to be read.
_READ_FLAGS = ("source", "time_zone", "zone_gap", "date_order", "equipment_id")


@dataclass(frozen=True)
class Publication:
    """What is to be published, checked as far as that goes without touching anything.

    Attributes:
        job: the flags that this command shares with the job.
        to: the topic's URI.
        rate: messages a second, or None.
        speed: how many times faster than the readings' own time, or None.
        by_time: whether messages go in order of time rather than the source's.
        stamped: whether a record's timestamp is its event time.
        limit: how many messages at most, or None.
        resume: the file that remembers the position, or None.
        partitions: of the topic to be created, -1 for the broker's default; None creates none.
    """

    job: JobConfig
    to: str
    rate: float | None
    speed: float | None
    by_time: bool
    stamped: bool
    limit: int | None
    resume: str | None
    partitions: int | None


def _parser() -> CommandFlags:
    parser = CommandFlags(
        prog="python -m pipeline.publish",
        description="Sends a source's readings to a Kafka or Pub/Sub topic, one JSON message each, "
        "keyed by equipment.",
        allow_abbrev=False,
    )
    failures.add_flag(parser)
    add = parser.add_argument
    add("--source", default="simulator:", help="as the job's; default: simulator:")
    add("--to", required=True, help="kafka://HOST:PORT[,…]/TOPIC or pubsub://PROJECT/TOPIC"
        "[?ordered=true]")  # fmt: skip
    add("--rate", type=float, help="readings a second; default: as fast as the broker takes them")
    add("--speed", type=float, help="times faster than the readings' own time: 1 is real time")
    add("--order", choices=["source", "time"], help="send in the source's order, equipment after "
        "equipment, or all equipments together in order of time (sorted on disk first, in the "
        "system's temporary folder); default: time with --speed, else source")  # fmt: skip
    add("--timestamp", choices=["now", "event"], default="now", help="a Kafka record's timestamp; "
        "with event, the topic's retention must reach back to the oldest; default: now")  # fmt: skip
    add("--limit", type=int, help="send at most so many")
    add("--resume", help="file that remembers what was acknowledged; a rerun goes on after it")
    add("--create_topic", type=int, nargs="?", const=-1, metavar="PARTITIONS",
        help="create the topic if there is none")  # fmt: skip
    for name in ("--time_zone", "--zone_gap", "--equipment_id"):
        add(name, help="as the job's")
    add("--date_order", help="as the job's: mdy, dmy or auto")
    add("--equipment_profile", action="append", default=[], help="as the job's")
    add("--dialect", action="append", default=[], help="as the job's")
    add("--no_progress", action="store_true", help="show no progress bar")
    return parser


def publication(argv: Sequence[str]) -> Publication:
    """The publication that the flags ask for.

    Raises:
        ConfigError: a flag nobody knows, or a value that can't be used.
    """
    given = _parser().known(argv)
    if given.rate is not None and given.speed is not None:
        raise ConfigError("--rate and --speed can't stand together; drop one")
    for name in ("rate", "speed"):
        value = getattr(given, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(f"--{name}={value:g}: must be above 0")
    if given.speed is not None and given.order == "source":
        raise ConfigError("--speed sends in order of time; drop --order=source")
    if given.limit is not None and given.limit < 1:
        raise ConfigError(f"--limit={given.limit}: must be 1 or more")
    if given.create_topic is not None and given.create_topic != -1 and given.create_topic < 1:
        raise ConfigError(f"--create_topic={given.create_topic}: must be 1 or more partitions")
    if given.timestamp == "event" and given.to.lower().startswith(f"{PUBSUB}:"):
        raise ConfigError("--timestamp=event: Pub/Sub sets the time itself; drop it")
    shared = shared_flags(given, _READ_FLAGS, ("equipment_profile", "dialect"))
    shared += ["--no_progress"] if given.no_progress else []
    return Publication(
        job=options.config_from(options.parse(shared)),
        to=given.to,
        rate=given.rate,
        speed=given.speed,
        by_time=given.order == "time" or given.speed is not None,
        stamped=given.timestamp == "event",
        limit=given.limit,
        resume=given.resume,
        partitions=given.create_topic,
    )
