"""Turns the replay's command line into one frozen, validated Replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import failures, options
from pipeline.errors import ConfigError
from pipeline.flags import CommandFlags, shared_flags
from pipeline.options import JobConfig
from pipeline.shown import address, refuse_login

_READ_FLAGS = ("time_zone", "zone_gap", "date_order", "binary_keys")


@dataclass(frozen=True)
class Replay:
    """What is to be sent again, checked as far as that goes without touching anything.

    Attributes:
        job: the flags that say how the job would read a message.
        lake: the lake whose dead letters these are, or None.
        warehouse: the warehouse whose they are, or None.
        where: the SQL condition that letters have to meet.
        changes: (field, SQL expression) each.
        to: the topic's URI.
        send: whether to send; else it is only shown.
        remember: the folder that holds what was sent.
    """

    job: JobConfig
    lake: str | None
    warehouse: str | None
    where: str
    changes: tuple[tuple[str, str], ...]
    to: str
    send: bool
    remember: str

    @property
    def origin(self) -> str:
        """Where the letters are, as messages begin."""
        if self.lake is not None:
            return f"--lake={address(self.lake)}"
        return f"--warehouse={address(self.warehouse or '')}"


def _parser() -> CommandFlags:
    parser = CommandFlags(
        prog="python -m pipeline.replay",
        description="Corrects dead letters and sends them to the topic that the job reads. Without "
        "--send it only shows what it would do.",
        epilog="""example: python -m pipeline.replay --lake=data/lake --where="error_type =
        'out_of_bounds' AND field = 'voltage_v'" --set "voltage=voltage / 1000"
        --to=kafka://localhost:9092/battery""",
        allow_abbrev=False,
    )
    failures.add_flag(parser)
    add = parser.add_argument
    add("--lake", help="the lake whose dead_letters/ are read: a folder, gs:// or s3://")
    add("--warehouse", help="read them from there instead: duckdb:PATH or md:DATABASE")
    add("--where", default="true", metavar="CONDITION", help="SQL condition over the columns of "
        "dead_letters (error_type, field, equipment_id, position, ingested_at, …) and message.NAME, "
        "the payload's fields; default: all letters")  # fmt: skip
    add("--set", action="append", default=[], metavar="FIELD=EXPRESSION", help="gives a field of "
        "the JSON payload the value of a SQL expression over the payload's fields and letter.NAME, "
        "the letter's columns; NULL takes the field out; payload=EXPRESSION replaces all of the "
        "payload (letter.payload is its text); several times")  # fmt: skip
    add("--to", required=True, help="kafka://HOST:PORT[,…]/TOPIC or pubsub://PROJECT/TOPIC"
        "[?ordered=true]")  # fmt: skip
    add("--send", action="store_true", help="send them; else it is only shown what would be sent")
    add("--remember", help="folder of the list of what was sent, which is not sent again; default: "
        ".replays in the lake, or beside the DuckDB file")  # fmt: skip
    add("--time_zone", help="as the job's")
    add("--zone_gap", help="as the job's: auto, shift, standard or reject")
    add("--date_order", help="as the job's: mdy, dmy or auto")
    add("--binary_keys", help="as the job's: hex or refuse")
    add("--equipment_profile", action="append", default=[], help="as the job's")
    return parser


def replay(argv: Sequence[str]) -> Replay:
    """The replay that the flags ask for.

    Raises:
        ConfigError: a flag nobody knows, or a value that can't be used.
    """
    given = _parser().known(argv)
    if (given.lake is None) == (given.warehouse is None):
        raise ConfigError("--lake or --warehouse: give one of them, where the dead letters are")
    for flag in ("lake", "warehouse", "remember"):
        if (uri := getattr(given, flag)) is not None:
            refuse_login(f"--{flag}", uri)
    if not given.set:
        raise ConfigError('--set: give what to correct, such as --set "voltage=voltage / 1000"')
    shared = shared_flags(given, _READ_FLAGS, ("equipment_profile",))
    return Replay(
        job=options.config_from(options.parse(shared)),
        lake=given.lake,
        warehouse=given.warehouse,
        where=given.where,
        changes=tuple(_change(text) for text in given.set),
        to=given.to,
        send=given.send,
        remember=given.remember or _beside(given.lake, given.warehouse),
    )


def _change(text: str) -> tuple[str, str]:
    name, equals, expression = text.partition("=")
    if not (name.strip() and equals and expression.strip()):
        raise ConfigError(
            f'--set={text}: must be FIELD=EXPRESSION, such as "voltage=voltage / 1000"'
        )
    return name.strip(), expression.strip()


def _beside(lake: str | None, warehouse: str | None) -> str:
    if lake is not None:
        return f"{lake.rstrip('/')}/.replays"
    kind, _, path = (warehouse or "").partition(":")
    if kind == "duckdb":
        return str(Path(path).parent / ".replays")
    raise ConfigError(
        f"--warehouse={address(warehouse or '')}: give --remember=FOLDER too, for the list of what "
        "was sent"
    )
