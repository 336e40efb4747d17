"""python -m pipeline.inspect: shows how files would be read, and what in them agrees."""

from __future__ import annotations

import argparse
import datetime as dt
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import failures, options, registry
from pipeline.clock import now_us
from pipeline.errors import ConfigError
from pipeline.shown import address, plain_json, say
from pipeline.sources.files.source import FileSource
from pipeline.sources.formats.content import Summaries
from schemas.forms import flag_names
from schemas.reading import READING
from transforms import convert
from transforms.batch import BatchKind, RawBatch, stack
from transforms.dead_letter import DeadLetter
from transforms.decode import decode
from transforms.interpret.interpretation import TOLD, Interpretation, as_json
from transforms.limits import Limits
from transforms.sequence import sequence
from transforms.validate import validate

_SHOWN = 12  # names, reasons or tests in a line


@dataclass
class Seen:
    """What one file gave.

    Attributes:
        dialect: how its rows were understood; None for messages and for what could not be read.
        tables: its valid readings.
        rows: how many rows or messages there were.
        refused: how many rows or lines cannot become readings, by reason.
        summaries: how many cycles the cycler's own statistics sum up, where it holds these.
    """

    dialect: Interpretation | None = None
    tables: list[pa.Table] = field(default_factory=list)
    rows: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    summaries: int | None = None


def look(source: FileSource, config: options.JobConfig) -> dict[str, Seen]:
    """Reads all of a source's files and notes what each gave, by its name with its folder."""
    limits = Limits(config.profiles)
    at_us = now_us()
    found: dict[str, Seen] = {}
    for output in source.outputs():
        if isinstance(output, DeadLetter):
            seen = found.setdefault(output.source_file or "", Seen())
            seen.refused[f"{output.error_type}: {output.error_message}"] += 1
        elif isinstance(output, Summaries):
            seen = found.setdefault(output.content.source_file, Seen())
            seen.summaries = (seen.summaries or 0) + output.table.num_rows
        elif isinstance(output, RawBatch):
            _note(output, config, limits, at_us, found)
    return found


def _note(
    raw: RawBatch, config: options.JobConfig, limits: Limits, at_us: int, found: dict[str, Seen]
) -> None:
    decoded, rejects = decode(raw, config.zone, config.day_first)
    valid, refused = validate(decoded, limits, at_us)
    reasons = {**rejects.rows, **refused.rows}
    name = raw.origin.source_file
    if raw.kind is BatchKind.MESSAGES:
        files = raw.table.column("source_file").to_pylist()
        for place, file in enumerate(files):
            seen = found.setdefault(file or name or "", Seen())
            seen.rows += 1
            if place in reasons:
                seen.refused[f"{reasons[place][0]}: {reasons[place][2]}"] += 1
        if valid.num_rows:
            found.setdefault(files[0] or name or "", Seen()).tables.append(valid)
        return
    seen = found.setdefault(name or "", Seen())
    seen.dialect = decoded.dialect
    seen.rows += raw.table.num_rows
    for error, _, message in reasons.values():
        seen.refused[f"{error}: {message}"] += 1
    if valid.num_rows:
        seen.tables.append(valid)


def facts(seen: Seen, limits: Limits) -> dict[str, Any]:
    """What is known of a file, as plain values."""
    out: dict[str, Any] = {"rows": seen.rows, "readings": 0}
    if seen.summaries is not None:
        out["cycle_summaries"] = seen.summaries
    if seen.dialect is not None:
        out |= as_json(seen.dialect)
    out["refused_rows"] = dict(seen.refused.most_common())
    if not seen.tables:
        return out
    ordered = sequence(stack(seen.tables), None, limits)
    table = ordered.table
    times = table.column("recorded_at")
    flags = Counter[str]()
    masks, counts = np.unique(table.column("flags").to_numpy(), return_counts=True)
    for mask, count in zip(masks.tolist(), counts.tolist(), strict=True):
        flags.update(dict.fromkeys(flag_names(mask), count))
    out |= {
        "readings": table.num_rows,
        "duplicates": ordered.duplicates,
        "first_time": pc.min(times).as_py().isoformat(),
        "last_time": pc.max(times).as_py().isoformat(),
        "equipment": _distinct(table, "equipment_id"),
        "equipment_types": _distinct(table, "equipment_type"),
        "tests": _distinct(table, "test_id"),
        "cycles": _count(table, ("test_id", "cycle_index")),
        "steps": _runs(table),
        "charge_ah": round(float(pc.sum(table.column("charge_ah")).as_py()), 6),
        "discharge_ah": round(float(pc.sum(table.column("discharge_ah")).as_py()), 6),
        "flags": dict(sorted(flags.items())),
    }
    return out


def _distinct(table: pa.Table, name: str) -> list[str]:
    if name not in table.column_names:
        return []
    return sorted(pc.unique(table.column(name).cast(pa.string())).drop_null().to_pylist())


def _count(table: pa.Table, names: Sequence[str]) -> int:
    present = [name for name in names if name in table.column_names]
    if names[-1] not in present:
        return 0
    return int(table.group_by(present).aggregate([]).num_rows)


def _runs(table: pa.Table) -> int:
    """How many times the step changes, plus one."""
    names = [n for n in ("test_id", "cycle_index", "step_index") if n in table.column_names]
    changes = ~convert.as_before([table.column(name) for name in names], table.num_rows)
    return int(changes.sum()) + 1 if "step_index" in table.column_names else 0


def _some(items: Sequence[str]) -> str:
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def lines(name: str, known: dict[str, Any]) -> Iterator[str]:
    """What is known of a file, for a person."""
    yield name
    if "cycle_summaries" in known:
        count = known["cycle_summaries"]
        yield f"  statistics  {count} cycles summed up by the cycler: a witness, not readings"
    if not known["rows"] and not known["refused_rows"] and "cycle_summaries" not in known:
        yield "  rows        none"
    if known["rows"]:
        extra = f", {known['duplicates']} duplicates" if known.get("duplicates") else ""
        yield f"  rows        {known['rows']}: {known['readings']} readings{extra}"
    for reason, count in list(known["refused_rows"].items())[:_SHOWN]:
        yield f"  refused     {count} x {reason}"
    if "columns" in known:
        yield from _decision_lines(known)
    if known["readings"]:
        yield f"  time        {_time(known['first_time'])} to {_time(known['last_time'])}"
        kinds = ", ".join(known["equipment_types"])
        yield f"  equipment   {_some(known['equipment'])} ({kinds})"
        yield f"  tests       {_some(known['tests']) or 'none'}"
        yield f"  cycles      {known['cycles'] or 'no cycle number'}; steps {known['steps'] or '-'}"
        yield (
            f"  integral    {known['charge_ah']:.6g} Ah in, {known['discharge_ah']:.6g} Ah out "
            "over all rows"
        )
        flags = ", ".join(f"{name} {count}" for name, count in known["flags"].items())
        yield f"  flags       {flags or 'none'}"
    doubts = known.get("disagreements")
    if doubts:
        yield f"  in doubt    {', '.join(doubts)}"


def _decision_lines(known: dict[str, Any]) -> Iterator[str]:
    yield f"  layout      {known['dialect'] or 'not known'}"
    for place, (name, use) in enumerate(known["columns"].items()):
        head = "  columns     " if place == 0 else " " * 14
        yield f"{head}{use['column']} -> {name}{_details(name, use)}"
    yield f"  current     {_SIGNS[known['current_sign']]}"
    interval = known["sampling_interval_s"]
    shown = "" if interval is None else f"; a row every {interval:g} s"
    yield f"  clock       {known['clock']}{shown}"
    order = f" ({known['date_order']})" if known["date_order"] else ""
    yield f"  event time  {known['event_time']}{order}"
    if known["counter_grain"]:
        yield f"  counters    restart with the {known['counter_grain']}"
    if known["numbers"]:
        yield f"  numbers     {_NOTATIONS[known['numbers']]}"
    for witness in known["witnesses"]:
        yield f"  witness     {witness['about']}, {witness['witness']}: {_says(witness)}"
    for column, why in known["refused"].items():
        yield f"  not read    {column}: {why}"
    if known["left"]:
        yield f"  left over   {_some(known['left'])} (kept in extra)"


_SIGNS = {
    "positive_charges": "positive charges",
    "positive_discharges": "positive discharges in the file: sign reversed",
    "from_state": "without sign in the file: the state gives the direction",
    "from_counters": "without sign in the file: the counter that grows gives the direction",
}


_NOTATIONS = {
    "point": "decimal point, commas between thousands: 1,234.5",
    "comma": "decimal comma, points between thousands: 1.234,5",
}
_COUNTS = {
    "charge": "counts charge",
    "discharge": "counts discharge",
    "unsigned": "counts both directions upwards",
    "net_charge": "net value: rises on charge, falls on discharge",
    "net_discharge": "net value: rises on discharge, falls on charge",
}
_BY = frozenset({"wall clock", "counters", "integral"})  # what shows a unit


def _details(name: str, use: dict[str, Any]) -> str:
    """Unit, factor and reason of a column, in brackets; nothing where there is none of them."""
    found = [use["unit"]] if use["unit"] else []
    own = READING.field(name).unit if name in READING.names else None
    if not found and own is not None:
        found.append(f"no unit, taken as {own}")
    if use["factor"] != 1:
        found.append(f"x {use['factor']:g}")
    if "offset" in use:
        found.append(f"{use['offset']:+g}")
    if "counts" in use:
        found.append(_COUNTS[use["counts"]])
    if use["why"] == TOLD:
        found.append("as --dialect says")
    elif use["why"] in _BY:
        found.append(f"by the {use['why']}")
    elif use["why"] != "name":
        found.append(use["why"])
    return f" ({', '.join(found)})" if found else ""


def _says(witness: dict[str, Any]) -> str:
    """What a witness says: a share for a direction, a ratio of two estimates, or its text."""
    agreement, text = witness["agreement"], witness["text"]
    if text and witness["about"] != "unit":
        return str(text)
    if witness["about"] == "direction":
        return f"agrees with the file's sign in {agreement:.0%} of the charge"
    return f"ratio {agreement:.4f}" + (f"; {text}" if text else "")


def _time(text: str) -> str:
    return dt.datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S UTC")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.inspect",
        description="Shows how files would be read before anything is run: layout, columns, units, "
        "sign, clocks, tests, cycles, and how well the witnesses agree. Exit status: 1 if a file "
        "gives no reading, 2 for a wrong flag or a file that does not exist.",
        allow_abbrev=False,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a file, folder or glob")
    parser.add_argument("--json", action="store_true", help="print one JSON object per file")
    for name in ("--time_zone", "--zone_gap", "--date_order", "--equipment_id"):
        parser.add_argument(name, help="as for python -m pipeline")
    for name in ("--dialect", "--equipment_profile"):
        parser.add_argument(name, action="append", default=[], help="as for python -m pipeline")
    failures.add_flag(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 1 if a file gives no reading, 2 for a wrong flag."""
    argv = sys.argv[1:] if argv is None else argv
    failures.begin(argv)
    given = _parser().parse_args(argv)
    shared = [
        f"--{name}={value}"
        for name in ("time_zone", "zone_gap", "date_order", "equipment_id")
        if (value := getattr(given, name))
    ]
    shared += [f"--dialect={name}" for name in given.dialect]
    shared += [f"--equipment_profile={name}" for name in given.equipment_profile]
    status = 0
    try:
        for file in given.files:
            config = options.config_from(options.parse([f"--source={file}", *shared]))
            for name, known in _inspected(config):
                if not known["readings"] and "cycle_summaries" not in known:
                    status = 1
                if given.json:
                    print(plain_json({"file": name, **known}))  # noqa: T201 - for programs
                else:
                    say(*lines(name, known), "")
    except ConfigError as error:
        said = str(error).removeprefix("--source=")
        say(f"error: {said}", error=True)
        return 2
    except Exception as error:  # noqa: BLE001 - each ends in one line
        return failures.ended(error, argv)
    return status


def _inspected(config: options.JobConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each file of a source with what is known of it, in the order of their names."""
    source = registry.source(config)
    if not isinstance(source, FileSource):
        raise ConfigError(f"{address(config.source)}: only files can be inspected")
    source.check()
    limits = Limits(config.profiles)
    found = look(source, config)
    if not found:
        found[config.source] = Seen()
    for name, seen in sorted(found.items()):
        yield name, facts(seen, limits)


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever reads the output may stop early
    sys.exit(main())
