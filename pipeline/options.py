"""Turns the command line into one frozen, validated JobConfig; an error names flag and fix."""

from __future__ import annotations

import argparse
import datetime as dt
import difflib
import math
import re
import secrets
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apache_beam.options.pipeline_options import PipelineOptions, TestOptions

from pipeline import failures
from pipeline.errors import ConfigError
from pipeline.flags import CommandFlags
from pipeline.shown import address, refuse_login
from schemas import profiles
from schemas.profiles import Profile, ProfileError
from transforms.budget import USUAL, Budget, BudgetError, budget_from
from transforms.decode import BINARY_KEYS
from transforms.interpret.told import Told, ToldError, told_from
from transforms.zones import Gap

_DAY_S = 86_400
_DAY_FIRST = {"auto": None, "mdy": False, "dmy": True}
DEFAULT_WAREHOUSE = "duckdb:./data/warehouse.duckdb"
# The first of each is the default.
BIGQUERY_METHODS = ("storage_write", "file_loads", "streaming_inserts")
CYCLES = ("live", "none")
CONFLICTS = ("version", "replace", "keep")
BIGQUERY_DELIVERIES = ("at_least_once", "exactly_once")


class JobOptions(PipelineOptions):
    """The job's own flags, beside Beam's and Dataflow's."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("battery pipeline")
        group.add_argument(
            "--source",
            default="simulator:",
            help="simulator:[?equipment=8&cycles=…&protocol=…], a file, folder, zip or glob (local, gs://, "
            "s3://), kafka://HOST:PORT[,…]/TOPIC[?group=…&start=earliest|latest|TIME&disorder=5"
            "&isolation=read_committed|read_uncommitted&transaction_wait=30] or pubsub://PROJECT/SUBSCRIPTION[?disorder=5]; default: simulator:",
        )
        group.add_argument(
            "--until",
            choices=["latest"],
            help="latest: of a kafka:// or pubsub:// source, read what is there now and finish",
        )
        group.add_argument(
            "--allow_data_loss",
            action="store_true",
            help="end with status 0 though the topic had lost messages before they were read "
            "(retention), or is another one than before; they are reported in any case",
        )
        group.add_argument(
            "--lake",
            default="./data/lake",
            help="the raw lake: a folder, gs://BUCKET/PREFIX, s3://BUCKET/PREFIX, or none; "
            "default: ./data/lake",
        )
        group.add_argument(
            "--lake_file_mb",
            type=float,
            default=64,
            help="size the lake's files are to have, as far as enough readings come; default: 64",
        )
        group.add_argument(
            "--lake_file_wait",
            type=float,
            default=300,
            help="seconds a live job on other runners than the local one gathers readings for one "
            "file of the lake; default: 300",
        )
        group.add_argument(
            "--warehouse",
            action="append",
            help="duckdb:PATH, md:DATABASE, bigquery://PROJECT/DATASET, cassandra://HOST[:PORT]"
            "/KEYSPACE[?consistency=…&ttl=DAYS&round=FIELD:DIGITS], or none; may be given more "
            f"than once; default: {DEFAULT_WAREHOUSE}",
        )
        group.add_argument(
            "--bigquery_method",
            choices=list(BIGQUERY_METHODS),
            default=BIGQUERY_METHODS[0],
            help="how rows get into BigQuery: storage_write (Storage Write API), file_loads (load "
            "jobs from the lake's files; needs a gs:// lake), or streaming_inserts; "
            f"default: {BIGQUERY_METHODS[0]}",
        )
        group.add_argument(
            "--bigquery_delivery",
            choices=list(BIGQUERY_DELIVERIES),
            default=BIGQUERY_DELIVERIES[0],
            help="of storage_write: at_least_once (a crash or retry may write a reading twice, "
            "which the models drop), or exactly_once (not on the local runner); "
            f"default: {BIGQUERY_DELIVERIES[0]}",
        )
        group.add_argument(
            "--bigquery_load_every",
            type=float,
            default=300,
            help="seconds between a live job's load jobs of file_loads; default: 300",
        )
        group.add_argument(
            "--dead_letter_topic",
            help="kafka://HOST:PORT[,…]/TOPIC or pubsub://PROJECT/TOPIC that dead letters go to, "
            "beside lake and warehouse",
        )
        group.add_argument(
            "--prediction_topic",
            help="kafka://HOST:PORT[,…]/TOPIC or pubsub://PROJECT/TOPIC that what --model predicts goes "
            "to, as JSON, beside lake and warehouse",
        )
        group.add_argument(
            "--checkpoint",
            help="file in which a local job with a live source keeps the last readings of every "
            "equipment for its next run, or none; default: in the lake's folder",
        )
        group.add_argument(
            "--window",
            type=float,
            default=60,
            help="seconds of an event-time window; must divide a day; default: 60",
        )
        group.add_argument(
            "--allowed_lateness",
            type=float,
            default=300,
            help="seconds a reading may come after its window closed and still be put in its "
            "place; default: 300",
        )
        group.add_argument(
            "--on_conflict",
            choices=list(CONFLICTS),
            default=CONFLICTS[0],
            help="which version of a reading counts in the warehouse when it arrives again with "
            "other values: version (the newest; the former goes to readings_superseded), replace "
            "(the newest; the former stays in the lake alone), or keep (the first; the newer one "
            f"goes to readings_superseded); default: {CONFLICTS[0]}",
        )
        group.add_argument(
            "--cycles",
            choices=list(CYCLES),
            default=CYCLES[0],
            help="live: what a cell's cycle was worth goes to the table cycles_live as soon as the "
            f"cycle has ended; none: only the models tell; default: {CYCLES[0]}",
        )
        group.add_argument(
            "--model",
            default="none",
            help="predicts health and remaining life of cells as their cycles end: a file that "
            "python -m pipeline.train wrote (PATH, gs://… or s3://…; a new file there takes its place "
            "while the job runs), vertex://PROJECT/REGION/ENDPOINT, default for the one that ships, or none; default: none",
        )
        group.add_argument(
            "--model_timeout",
            type=float,
            default=10,
            help="seconds that a model may take for some cells; after that they are dead letters of "
            "step predict; default: 10",
        )
        group.add_argument(
            "--shards",
            type=int,
            default=8,
            help="parts the fleet is divided into, each ordered by one worker at a time; "
            "default: 8",
        )
        group.add_argument(
            "--equipment_profile",
            action="append",
            default=[],
            help="TOML file with bounds and nominal values for some equipments, or the name of a "
            "built-in profile to use for all; may be given more than once",
        )
        group.add_argument(
            "--time_zone",
            default="UTC",
            help="zone of times that carry none, such as Europe/Berlin; default: UTC",
        )
        group.add_argument(
            "--zone_gap",
            default=Gap.AUTO.value,
            choices=[gap.value for gap in Gap],
            help="of times that --time_zone skips in spring, such as 02:30: shift (02:30 is 03:30), "
            "standard (the clock stays on standard time all year), reject (a dead letter), or auto "
            "(standard where the rows of a file or its test's clock show it, else shift; the "
            "readings are flagged clock_disagrees); default: auto",
        )
        group.add_argument(
            "--date_order",
            default="auto",
            choices=sorted(_DAY_FIRST),
            help="of dates such as 03/04/2024: mdy, dmy, or auto (a day above 12, AM and PM, or the "
            "test's clock decide; otherwise the month comes first and the test is marked as in doubt); "
            "default: auto",
        )
        group.add_argument(
            "--dialect",
            action="append",
            default=[],
            help="TOML file that says how cyclers' files are to be read where the program is "
            "wrong: columns, units, sign, decimal, date_order, for the files it names; may be "
            "given more than once, the first that matches a file is used",
        )
        group.add_argument(
            "--equipment_id",
            help="equipment of readings that name none, instead of telling it from the file",
        )
        group.add_argument(
            "--binary_keys",
            choices=list(BINARY_KEYS),
            default=BINARY_KEYS[0],
            help="of messages whose equipment only their key or a header names, in bytes that are "
            "no text: hex takes 0x and the bytes in hexadecimal as its name (flag binary_id), "
            f"refuse makes a dead letter of it; default: {BINARY_KEYS[0]}",
        )
        group.add_argument(
            "--limit",
            action="append",
            default=[],
            metavar="NAME=NUMBER[,…]",
            help="allows a file or message more than usual, where it was refused as too_large; "
            "the dead letter names the limit; may be given more than once",
        )
        group.add_argument(
            "--metrics_port",
            help="PORT or HOST:PORT at which a running job shows its figures to Prometheus",
        )
        group.add_argument(
            "--account_every",
            type=float,
            default=60,
            help="seconds between the account lines of a live job; 0 for none; default: 60",
        )
        group.add_argument(
            "--no_progress",
            action="store_true",
            help="show no progress bar",
        )
        failures.add_flag(group)


@dataclass(frozen=True)
class JobConfig:
    """What the job is to do, checked as far as that goes without touching anything.

    Times are whole microseconds; `launched_at_us` is the clock that the steps know.
    """

    source: str = "simulator:"
    lake: str | None = "./data/lake"
    warehouses: tuple[str, ...] = (DEFAULT_WAREHOUSE,)
    window_us: int = 60_000_000
    allowed_lateness_us: int = 300_000_000
    on_conflict: str = CONFLICTS[0]
    shards: int = 8
    cycles: bool = True
    model: str | None = None
    model_timeout_s: float = 10.0
    profiles: tuple[Profile, ...] = ()
    time_zone: str = "UTC"
    zone_gap: str = Gap.AUTO.value
    day_first: bool | None = None
    equipment_id: str | None = None
    dialects: tuple[Told, ...] = ()
    binary_keys: str = BINARY_KEYS[0]
    budget: Budget = USUAL
    launched_at_us: int = 0
    run: str = ""
    allow_data_loss: bool = False
    progress: bool = True
    until_latest: bool = False
    dead_letter_topic: str | None = None
    prediction_topic: str | None = None
    checkpoint: str | None = None
    metrics_port: str | None = None
    account_every_s: float = 60.0
    lake_file_bytes: int = 64 * 1024 * 1024
    lake_file_wait_s: float = 300.0
    bigquery_method: str = BIGQUERY_METHODS[0]
    bigquery_delivery: str = BIGQUERY_DELIVERIES[0]
    bigquery_load_every_s: float = 300.0
    dry_run: bool = False

    @property
    def zone(self) -> str:
        """The time zone, with what is made of times that it skips; see `transforms.zones`."""
        return self.time_zone if self.zone_gap == Gap.AUTO else f"{self.time_zone};{self.zone_gap}"


def _window_us(seconds: float) -> int:
    if not (math.isfinite(seconds) and 1 <= seconds <= _DAY_S) or _DAY_S % seconds:
        raise ConfigError(
            f"--window={seconds:g}: must be between 1 and {_DAY_S} seconds and divide a day "
            "evenly, such as 10, 60, 300 or 3600"
        )
    return round(seconds * 1e6)


def _within(flag: str, value: float, least: float, most: float) -> float:
    if not least <= value <= most:
        raise ConfigError(f"{flag}={value:g}: must be between {least:g} and {most:g}")
    return value


_LONGEST_ZONE = 100


def _time_zone(name: str) -> str:
    try:
        # Beyond that it is no zone's name, and makes the import system run out of its stack.
        return ZoneInfo(name if len(name) <= _LONGEST_ZONE else "").key
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigError(
            f"--time_zone={name[:_LONGEST_ZONE]}: no such time zone; give a name such as UTC or Europe/Berlin"
        ) from error


def _profiles(names: Sequence[str]) -> tuple[Profile, ...]:
    try:
        return profiles.load(names)
    except ProfileError as error:
        raise ConfigError(f"--equipment_profile={error}") from error


def _dialects(names: Sequence[str]) -> tuple[Told, ...]:
    found = []
    for name in names:
        try:
            values = tomllib.loads(Path(name).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"--dialect={name}: {error.strerror or error}; name a TOML file"
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"--dialect={name}: not valid TOML: {error}") from None
        try:
            found.append(told_from(values, name))
        except ToldError as error:
            raise ConfigError(f"--dialect={error}") from None
    return tuple(found)


def _budget(given: Sequence[str]) -> Budget:
    try:
        return budget_from(given)
    except BudgetError as error:
        raise ConfigError(f"--limit {error}") from None


def _warehouses(given: Sequence[str] | None) -> tuple[str, ...]:
    if given is None:
        return (DEFAULT_WAREHOUSE,)
    chosen = tuple(uri for uri in given if uri != "none")
    if len(chosen) != len(given) and chosen:
        raise ConfigError("--warehouse=none can't stand beside another --warehouse; drop one")
    if len(set(chosen)) != len(chosen):
        raise ConfigError(f"--warehouse={address(chosen[0])}: given twice; drop one")
    return chosen


def config_from(options: PipelineOptions, now_us: int | None = None) -> JobConfig:
    """The job's configuration.

    Args:
        options: parsed flags.
        now_us: the clock, microseconds since 1970; the machine's if None.

    Raises:
        ConfigError: a flag's value can't be used.
    """
    own: Any = options.view_as(JobOptions)
    if own.shards < 1:
        raise ConfigError(f"--shards={own.shards}: must be 1 or more")
    if not (math.isfinite(own.allowed_lateness) and own.allowed_lateness >= 0):
        raise ConfigError(f"--allowed_lateness={own.allowed_lateness:g}: must be 0 or more seconds")
    if not own.source:
        raise ConfigError("--source: is empty; give a file, folder or simulator:")
    launched_us = time.time_ns() // 1000 if now_us is None else now_us
    # Before anything is printed, kept or named after an address.
    for flag, uri in _addresses(own):
        refuse_login(flag, uri)
    return JobConfig(
        source=own.source,
        lake=None if own.lake == "none" else own.lake,
        warehouses=_warehouses(own.warehouse),
        window_us=_window_us(own.window),
        allowed_lateness_us=round(own.allowed_lateness * 1e6),
        on_conflict=own.on_conflict,
        shards=own.shards,
        cycles=own.cycles == CYCLES[0],
        model=_model(own.model, own.cycles),
        model_timeout_s=_within("--model_timeout", own.model_timeout, 0.1, 3600),
        profiles=_profiles(own.equipment_profile),
        time_zone=_time_zone(own.time_zone),
        zone_gap=own.zone_gap,
        day_first=_DAY_FIRST[own.date_order],
        equipment_id=own.equipment_id,
        dialects=_dialects(own.dialect),
        binary_keys=own.binary_keys,
        budget=_budget(own.limit),
        launched_at_us=launched_us,
        run=_run(launched_us),
        allow_data_loss=own.allow_data_loss,
        progress=not own.no_progress,
        until_latest=own.until == "latest",
        dead_letter_topic=own.dead_letter_topic,
        prediction_topic=_prediction_topic(own.prediction_topic, own.model),
        checkpoint=_checkpoint(own.checkpoint, own.lake, own.source),
        metrics_port=own.metrics_port,
        account_every_s=own.account_every,
        lake_file_bytes=round(_within("--lake_file_mb", own.lake_file_mb, 0.1, 4096) * 1024**2),
        lake_file_wait_s=_within("--lake_file_wait", own.lake_file_wait, 1, 3600),
        bigquery_method=own.bigquery_method,
        bigquery_delivery=own.bigquery_delivery,
        bigquery_load_every_s=_within("--bigquery_load_every", own.bigquery_load_every, 1, _DAY_S),
        dry_run=str(options.view_as(TestOptions).dry_run) == "True",
    )


def _prediction_topic(given: str | None, model: str) -> str | None:
    if given is not None and model == "none":
        raise ConfigError(
            "--prediction_topic is for what --model predicts; give --model, such as --model=default"
        )
    return given


def _model(given: str, cycles: str) -> str | None:
    if given == "none":
        return None
    if cycles != CYCLES[0]:
        raise ConfigError(
            "--model predicts as cycles end, and --cycles=none follows none; drop one of them"
        )
    return given


def _run(launched_us: int) -> str:
    """A run's id: when it was launched, and what tells it from another of the same moment."""
    moment = dt.datetime.fromtimestamp(launched_us / 1e6, dt.UTC)
    return f"{moment:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def _addresses(own: Any) -> Iterator[tuple[str, str]]:
    """Every address that the flags give, each with its flag."""
    yield from (("--source", own.source), ("--lake", own.lake), ("--model", own.model))
    yield from (("--warehouse", uri) for uri in own.warehouse or ())
    for name in ("dead_letter_topic", "prediction_topic", "checkpoint"):
        if (uri := getattr(own, name)) is not None:
            yield f"--{name}", uri


def _checkpoint(given: str | None, lake: str, source: str) -> str | None:
    """The file a live source's last readings are kept in: one per source, hidden in the lake."""
    if given is not None:
        return None if given == "none" else given
    scheme, _, address = source.partition("://")
    if scheme.lower() not in ("kafka", "pubsub"):
        return None
    folder = "./data" if lake == "none" or "://" in lake else lake
    # Topic and group say what is read; how it is read may change from run to run.
    place, _, query = address.partition("?")
    group = dict(parse_qsl(query)).get("group", "")
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{place}/{group}").strip("_")
    return f"{folder}/.checkpoint/{name}.arrow"


def parse(argv: Sequence[str]) -> PipelineOptions:
    """The flags as Beam options; every Beam and Dataflow flag works too.

    Raises:
        ConfigError: a flag nobody knows, or a value of the wrong type.
    """
    # Beam has this flag, with a value.
    argv = ["--dry_run=True" if flag == "--dry_run" else flag for flag in argv]
    if {"-h", "--help"} & set(argv):
        own = _KnownFlags(
            prog="python -m pipeline",
            description="Reads battery and machine readings into a lake and a warehouse.",
            epilog="Every flag of Beam and its runners works too (see Beam's documentation).",
        )
        own.add_argument("--runner", help="Beam's runner; default: local")
        own.add_argument(
            "--dry_run",
            action="store_true",
            help="only check that everything is there and may be used, and print the graph and "
            "the resolved configuration; reads and writes nothing",
        )
        JobOptions._add_argparse_args(own)
        own.parse_args(["--help"])
    parser = _KnownFlags(prog="python -m pipeline", add_help=False)
    for options in (PipelineOptions, *PipelineOptions.__subclasses__()):
        add = getattr(options, "_add_argparse_args", None)
        if add is not None:
            add(parser)
    _, unknown = parser.parse_known_args(list(argv))
    if unknown:
        flag = unknown[0].split("=")[0]
        known = [name for action in parser._actions for name in action.option_strings]
        close = difflib.get_close_matches(flag, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "see --help for the flags there are"
        raise ConfigError(f"{flag}: no such flag; {hint}")
    return PipelineOptions(argv)


class _KnownFlags(CommandFlags):
    """The job's, in which several options may share a flag."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(conflict_handler="resolve", allow_abbrev=False, **settings)
