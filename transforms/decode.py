"""Decodes raw batches into the reading's columns, whatever names, units and types they had."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from zoneinfo import ZoneInfo

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from schemas.aliases import CLOCK, STATE, Alias, meaning, normalise, resolve
from schemas.forms import UTC_MICROSECONDS
from schemas.reading import QUALITY_FLAGS, READING, Kind
from transforms import convert, framing, messages, naming
from transforms import extra as extras
from transforms.batch import BatchKind, Origin, RawBatch, stack
from transforms.budget import TOO_LARGE, USUAL, Budget
from transforms.convert import Converted, Mask, Values
from transforms.decoded import NOTHING, Decoded
from transforms.guard import guarded
from transforms.interpret import apply, decide, states
from transforms.interpret.interpretation import SECOND, Interpretation
from transforms.rejects import Rejects, letters_in_parts
from transforms.zones import zone_of

STEP = "decode"
DIRECTION_DISAGREES = 1 << QUALITY_FLAGS.index("direction_disagrees")
BINARY_ID = 1 << QUALITY_FLAGS.index("binary_id")
CLOCK_DISAGREES = 1 << QUALITY_FLAGS.index("clock_disagrees")
EVENT_TIME_ASSUMED = 1 << QUALITY_FLAGS.index("event_time_assumed")

# What becomes of a reading whose equipment only a key or header names that is no text.
BINARY_KEYS = ("hex", "refuse")

# What of a table's columns is stored under a name of the reading.
_STORED = {*READING.names, CLOCK, "date"}

# No test is longer; what is, is no time, s.
LONGEST_TEST_S = 1e10

# What tells readings of one moment apart.
MEASURED = tuple(
    f.name
    for f in READING.fields
    if f.kind in (Kind.DOUBLE, Kind.INTEGER)
    and not f.derived
    and f.name not in ("record_index", "source_row", "test_time_s")
)

_LOW_CARDINALITY = ("equipment_id", "equipment_type", "test_id", "source_file")

_TYPES = {"battery_cell": "battery_cell", "battery": "battery_cell", "cell": "battery_cell",
          "machine": "machine", "motor": "machine"}  # fmt: skip


@dataclass(frozen=True)
class Dates:
    """How times, and ids that are no text, are to be read (see `transforms.convert`)."""

    zone: ZoneInfo
    day_first: bool | None
    refuse_binary: bool = False


@contextmanager
def _no_collection() -> Iterator[None]:
    """Switches the cycle collector off: decoding makes many objects and no cycles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _match(columns: dict[str, Values]) -> tuple[dict[str, list[tuple[str, Alias]]], list[str]]:
    """Which of a message's fields stand for which of ours, the best name first; and the others.

    When a message arrived its envelope knows; only a replayed row may say it itself.
    """
    ranked: dict[str, list[tuple[int, str, Alias]]] = {}
    unknown: list[str] = []
    for name in sorted(columns):
        alias = resolve(name)
        rank = 0 if alias == Alias(name) else 1 + (meant.rank if (meant := meaning(name)) else 0)
        if alias is None and normalise(name) == messages.AMBIGUOUS_TIME:
            alias = _what_time_means(columns[name])
        if alias is None or READING.field(alias.field).derived or alias.field == "ingested_at":
            unknown.append(name)
        else:
            ranked.setdefault(alias.field, []).append((rank, name, alias))
    # In one order whatever the names: of two things wrong with a message always the same is told.
    fields = {
        field: [
            (name, alias) for _, name, alias in sorted(ranked[field], key=lambda item: item[:2])
        ]
        for field in sorted(ranked)
    }
    _time_beside_total(fields)
    return fields, unknown


def _what_time_means(values: Values) -> Alias:
    """Elapsed seconds, or a date where most values are one: a single bad cell decides nothing."""
    numbers = convert.seconds(values)
    bad = 0 if numbers.bad is None else int(numbers.bad.sum())
    known = len(numbers.array) - numbers.array.null_count
    if known >= bad and not (pc.quantile(numbers.array, 0.5)[0].as_py() or 0.0) >= 1e8:
        return Alias("test_time_s")
    return Alias("recorded_at")


def _time_beside_total(fields: dict[str, list[tuple[str, Alias]]]) -> None:
    """Beside a column of the test's time, one that is only called time is the step's (Neware)."""
    elapsed = fields.get("test_time_s", [])
    bare = [source for source in elapsed if messages.BARE_TIME.fullmatch(normalise(source[0]))]
    if bare and len(bare) < len(elapsed) and "step_time_s" not in fields:
        fields["test_time_s"] = [source for source in elapsed if source not in bare]
        fields["step_time_s"] = [(name, replace(a, field="step_time_s")) for name, a in bare]


def _convert_field(name: str, values: Values, alias: Alias, dates: Dates) -> Converted:
    kind = READING.field(name).kind
    if kind is Kind.TIMESTAMP:
        return convert.timestamps(values, dates.zone, alias.scale, dates.day_first)
    if kind is Kind.INTEGER:
        return convert.integers(values, alias.scale)
    if kind is Kind.DOUBLE:
        if name in ("test_time_s", "step_time_s"):
            return convert.seconds(values, alias.scale)
        return convert.doubles(values, alias.scale, alias.offset)
    return convert.texts(values)


def _known_columns(
    columns: dict[str, Values],
    fields: dict[str, list[tuple[str, Alias]]],
    dates: Dates,
    rejects: Rejects,
) -> tuple[dict[str, pa.Array], npt.NDArray[np.int64] | int]:
    """The fields that messages have, and the flags of those whose time is in doubt."""
    found: dict[str, pa.Array] = {}
    flags: npt.NDArray[np.int64] | int = 0
    for name, sources in fields.items():
        parts = []
        for source, alias in sources:
            converted = _convert_field(name, columns[source], alias, dates)
            error, message = apply.error_of(name)
            rejects.add_mask(converted.bad, error, name, f"{source} {message}")
            if converted.doubtful is not None and name == "recorded_at":
                flags = flags | np.where(converted.doubtful, CLOCK_DISAGREES, 0)
            parts.append(converted.array)
        found[name] = parts[0] if len(parts) == 1 else pc.coalesce(*parts)
    return found, flags


def _own_columns(
    found: dict[str, pa.Array],
    origin: Origin,
    around: pa.Table | None,
    rows: int,
    budget: Budget,
    rejects: Rejects,
) -> dict[str, pa.Array]:
    """Fills what the rows do not say themselves from the message's envelope or the origin.

    `around` is what came with messages; None for rows of a table.
    """
    if around is not None:
        arrived = _as_column(around.column("arrived_at"), rows)
        default_file = _as_column(around.column("source_file"), rows)
        if origin.source_file is not None:
            default_file = default_file.fill_null(origin.source_file)
        named = {"source_file": default_file}
        _refuse_long(named, budget, rejects)
        default_file = named["source_file"]
        said = found.get("equipment_id")
        # Where all messages name their equipment themselves, nobody asks the others.
        is_open = said is None or said.null_count > 0
        ids = [_envelope_ids(around), *_path_ids(default_file)] if is_open else []
    else:
        arrived = pa.nulls(rows, UTC_MICROSECONDS)
        default_file = pa.repeat(pa.scalar(origin.source_file, pa.string()), rows)
        ids = _told_ids(found.get("source_file"), origin)
    fallback = pa.scalar(origin.equipment_id, pa.string())
    parts = [found.get("equipment_id"), *ids, fallback]
    found["equipment_id"] = _as_column(
        pc.coalesce(*[part for part in parts if part is not None]), rows
    )
    found["ingested_at"] = pc.coalesce(
        *[part for part in (found.get("ingested_at"), arrived) if part is not None],
        pa.scalar(origin.arrived_at_us, pa.int64()).cast(UTC_MICROSECONDS),
    )
    found["source_file"] = pc.coalesce(
        *[part for part in (found.get("source_file"), default_file) if part is not None]
    )
    return found


def _as_column(value: Any, rows: int) -> pa.Array:
    if isinstance(value, pa.Scalar):
        return pa.repeat(value, rows)
    if isinstance(value, pa.ChunkedArray):
        # Of one chunk no copy is made.
        return value.chunk(0) if value.num_chunks == 1 else value.combine_chunks()
    return value


def _told_ids(files: Any, origin: Origin) -> list[pa.Array]:
    """The equipment of the files that the rows of an export say they are from.

    Not where somebody has said which equipment it is: that of its own name is a guess.
    """
    guess = naming.equipment_from_path(origin.source_file or "")
    if files is None or origin.equipment_id not in (None, guess):
        return []
    return _path_ids(_as_column(files, len(files)))


def _path_ids(files: pa.Array) -> list[pa.Array]:
    if files.null_count == len(files):
        return []
    encoded = files.dictionary_encode()
    names = [naming.equipment_from_path(path) or None for path in encoded.dictionary.to_pylist()]
    return [pa.array(names, pa.string()).take(encoded.indices)]


def _envelope_ids(around: pa.Table) -> pa.Array | None:
    """The equipment that a message's attributes or key name, where its payload names none."""
    keys = around.column("key").combine_chunks()
    attributes = around.column("attributes").combine_chunks()
    found: list[pa.Array] = []
    if attributes.null_count < len(attributes):
        encoded = attributes.dictionary_encode()
        named = []
        for text in encoded.dictionary.to_pylist():
            try:
                value = orjson.loads(text)
                value = value.get("equipment_id") if isinstance(value, dict) else None
            except orjson.JSONDecodeError:
                value = None
            said = str(value).strip() if isinstance(value, str | int) else ""
            named.append(framing.as_name(said.encode("utf-8", "surrogatepass")) or None)
        found.append(pa.array(named, pa.string()).take(encoded.indices))
    if keys.null_count < len(keys):
        encoded = keys.dictionary_encode()
        decoded = [framing.key_text(key) for key in encoded.dictionary.to_pylist()]
        found.append(pa.array(decoded, pa.string()).take(encoded.indices))
    if not found:
        return None
    return found[0] if len(found) == 1 else pc.coalesce(*found)


def event_time(
    found: dict[str, pa.Array], rows: int, messages: bool, last_s: float | None = None
) -> tuple[pa.Array, Mask]:
    """The event time, and where it had to be assumed because the reading carries none.

    The time it was sent stands in; failing that the time it arrived. The rows of a file arrive
    together, so theirs is moved back by what the test still lasted after the row, where test time
    is known; not that of messages, whose company in a batch is another one at every replay.
    `last_s` is the test's length where the rows are only a part of it.
    """
    recorded = found.get("recorded_at")
    if recorded is None:
        recorded = pa.nulls(rows, UTC_MICROSECONDS)
    if recorded.null_count == 0:
        return recorded, np.zeros(rows, dtype=bool)
    assumed = np.asarray(recorded.is_null())
    arrived = found["ingested_at"]
    if not messages and (elapsed := found.get("test_time_s")) is not None:
        seconds = elapsed.to_numpy(zero_copy_only=False)
        finite = np.isfinite(seconds)
        if last_s is None:
            last_s = seconds[finite].max() if finite.any() else 0.0
        with np.errstate(invalid="ignore"):
            back = np.where(finite, last_s - seconds, 0.0)
        back = np.clip(back, 0.0, LONGEST_TEST_S)
        micros = arrived.cast(pa.int64()).to_numpy(zero_copy_only=False)
        arrived = pa.array(micros - np.round(back * 1e6).astype(np.int64)).cast(UTC_MICROSECONDS)
    stand_ins = [part for part in (found.get("streamed_at"), arrived) if part is not None]
    return pc.coalesce(recorded, *stand_ins), assumed


def _types(found: dict[str, pa.Array], rejects: Rejects) -> None:
    """Spells the equipment's type as the schema does; an unknown one is an error."""
    if (given := found.get("equipment_type")) is None:
        return
    encoded = given.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    known = pa.array([_TYPES.get(name.casefold()) for name in names], pa.string())
    found["equipment_type"] = known.take(encoded.indices)
    unknown = np.asarray(pc.and_(given.is_valid(), found["equipment_type"].is_null()))
    if unknown.any():
        allowed = " or ".join(sorted(set(_TYPES.values())))
        rejects.add_mask(unknown, "unknown_value", "equipment_type", f"must be {allowed}")


def decode(
    raw: RawBatch,
    time_zone: str = "UTC",
    day_first: bool | None = None,
    budget: Budget = USUAL,
    binary_keys: str = BINARY_KEYS[0],
) -> tuple[Decoded, Rejects]:
    """The batch's readings in the reading's columns, and the rows that could not be read.

    Args:
        raw: messages or table rows.
        time_zone: the zone of times that carry none.
        day_first: whether dates with slashes are day/month/year. None: as the batch's origin
            says; else a table's column decides, and messages, which come in any company, have
            the month first.
        budget: what a message may take; what is over it is refused as TOO_LARGE.
        binary_keys: one of BINARY_KEYS.

    A row that breaks the decoding itself is refused as UNDECODABLE; the others are decoded.
    """
    if day_first is None:
        day_first = raw.origin.day_first
        if day_first is None and raw.kind is BatchKind.MESSAGES:
            day_first = False
    dates = Dates(zone_of(time_zone), day_first, binary_keys == "refuse")
    with _no_collection():
        return guarded(raw, lambda part: _decode(part, dates, budget))


def _decode(raw: RawBatch, dates: Dates, budget: Budget) -> tuple[Decoded, Rejects]:
    rejects = Rejects()
    if raw.kind is BatchKind.ROWS:
        how = raw.origin.reading or decide.decide(
            raw.table, None, dates.zone, None, dates.day_first
        )
        table, start = _readings_of_rows(raw, how, dates, rejects, budget)
        return Decoded(table, raw, start, how), rejects
    _refuse_unread(raw, budget, rejects)
    payloads = _as_column(raw.table.column("payload"), raw.table.num_rows).cast(pa.binary())
    places = np.arange(raw.table.num_rows)
    if rejects.rows:
        places = np.delete(places, list(rejects.rows))
        payloads = payloads.take(pa.array(places))
    frames, payloads = _unframed(payloads)

    def refuse(row: int, rule: str, message: str) -> None:
        if (framed := frames.get(row)) is not None and rule in _NO_JSON:
            rule, message = framing.SCHEMA_REGISTRY, framed.why_not
        rejects.add(int(places[row]), rule, None, message)

    parts = []
    for alike in messages.parse(payloads, refuse, budget):
        numbers = places if alike.rows is None else places[alike.rows]
        if len(numbers) == raw.table.num_rows:
            table = _readings_of_messages(raw.table, raw.origin, alike, dates, rejects, budget)
        else:
            rows = pa.array(numbers)
            around = raw.table.drop_columns("payload").take(rows)
            noted = Rejects()
            table = _readings_of_messages(around, raw.origin, alike, dates, noted, budget)
            for row, reason in noted.rows.items():
                rejects.add(int(numbers[row]), *reason)
            own = rows.take(table.column("row").combine_chunks())
            table = table.set_column(table.column_names.index("row"), "row", own)
        parts.append(table)
    if not parts:
        return Decoded(NOTHING, raw, None), rejects
    return Decoded(_in_order(parts), raw, None), rejects


def _in_order(parts: Sequence[pa.Table]) -> pa.Table:
    """The parts' readings as one table, in the messages' order, whichever part they were in."""
    table = stack(parts)
    if len(parts) == 1:
        return table
    names = (name for name in (*READING.names, "flags", "row") if name in table.column_names)
    order = np.argsort(table.column("row").to_numpy())
    return table.select(list(names)).take(pa.array(order)).combine_chunks()


# What is wrong with a message whose frame holds something else than JSON.
_NO_JSON = ("malformed_json", "bad_encoding", "not_an_object")


def _unframed(payloads: pa.Array) -> tuple[dict[int, framing.Frame], pa.Array]:
    """The frames of those messages that a schema registry's serializer has put into one.

    And the messages, with JSON that stands in one taken out of it.
    """
    if not _may_be_framed(payloads):
        return {}, payloads
    found = {}
    bare: list[bytes | None] = payloads.to_pylist()
    for row, payload in enumerate(bare):
        if payload and payload[:1] in framing.MAGIC and (framed := framing.frame(payload)):
            found[row] = framed
            if framed.is_json:
                bare[row] = framed.content
    return found, pa.array(bare, pa.binary())


def _may_be_framed(payloads: pa.Array) -> bool:
    """Whether a message begins like a frame, or there is one without a first byte."""
    _, offsets, data = payloads.buffers()
    if not len(payloads) or data is None or not data.size:
        return False
    starts = np.frombuffer(offsets, np.int32)[payloads.offset :][: len(payloads)]
    first = np.frombuffer(data, np.uint8)[np.minimum(starts, data.size - 1)]
    return any((first == magic[0]).any() for magic in framing.MAGIC)


def _refuse_unread(raw: RawBatch, budget: Budget, rejects: Rejects) -> None:
    """Refuses the messages that the source could not read, and those that are too large."""
    for row, (error_type, message) in raw.refused.items():
        rejects.add(row, error_type, None, message)
    sizes = np.zeros(raw.table.num_rows, dtype=np.int64)
    for name in ("payload", "key", "attributes"):
        # A text's bytes, too, not its characters.
        length = pc.binary_length(raw.table.column(name))
        sizes += pc.fill_null(length, 0).to_numpy().astype(np.int64)
    for row in np.flatnonzero(sizes > budget.message_bytes).tolist():
        what = f"the message has {int(sizes[row]):,} bytes"
        rejects.add(row, TOO_LARGE, None, budget.over("message_kb", what))


def _refuse_long(found: dict[str, pa.Array], budget: Budget, rejects: Rejects) -> None:
    """Refuses rows whose ids or names are too long, and takes these away: nobody parses them."""
    for name in _LOW_CARDINALITY:
        array = found.get(name)
        if array is None or array.null_count == len(array):
            continue
        # In characters, of which none has less than a byte.
        long = pc.greater(pc.binary_length(array), budget.text)
        if pc.any(long).as_py():
            long = pc.fill_null(pc.greater(pc.utf8_length(array), budget.text), False)
            what = budget.over("text", f"{name} has too many characters")
            rejects.add_mask(np.asarray(long), TOO_LARGE, name, what)
            found[name] = pc.if_else(long, pa.scalar(None, array.type), array)


def _readings_of_messages(
    around: pa.Table,
    origin: Origin,
    alike: messages.Alike,
    dates: Dates,
    rejects: Rejects,
    budget: Budget,
) -> pa.Table:
    """The table of `Decoded` from messages' fields as their senders named them.

    Args:
        around: what came with the messages: columns of `MESSAGES`.
        origin: where they are from.
        alike: their fields.
        dates: how times are read.
        rejects: takes what is refused.
        budget: what a message may take.
    """
    rows, columns = around.num_rows, alike.columns
    fields, unknown = _match(columns)
    found, doubtful = _known_columns(columns, fields, dates, rejects)
    doubled = [
        (name, [better for better, _ in sources[:rank]])
        for sources in fields.values()
        for rank, (name, _) in enumerate(sources)
        if rank
    ]
    extra = extras.of_messages(columns, unknown, doubled, alike.others)
    if extra is not None:
        found["extra"] = extras.unnested(extra) if "extra" in unknown else extra
    _refuse_long(found, budget, rejects)
    said = found.get("equipment_id")
    found = _own_columns(found, origin, around, rows, budget, rejects)
    _refuse_long(found, budget, rejects)
    found["recorded_at"], assumed = event_time(found, rows, messages=True)
    flags = np.where(assumed, EVENT_TIME_ASSUMED, 0).astype(np.int64)
    binary = _binary_ids(found["equipment_id"], said)
    if dates.refuse_binary:
        what = (
            "the equipment is named by a key or header alone that is no text; name it in the "
            "message, or let --binary_keys=hex take its bytes as the name"
        )
        rejects.add_mask(binary, framing.BINARY_KEY, "equipment_id", what)
    elif binary is not None:
        flags[binary] |= BINARY_ID
    flags |= doubtful
    flags |= _against_state(columns, unknown, found.get("current_a"))
    return _finished(found, flags, rows, rejects)


def _binary_ids(ids: pa.Array, said: pa.Array | None) -> Mask | None:
    """Which ids are made of a key's or header's bytes that are no text; None for none."""
    if said is not None and said.null_count == 0:
        return None  # the messages' own word is text
    encoded = ids.dictionary_encode()
    binary = [framing.is_binary(name) for name in encoded.dictionary.to_pylist()]
    if not any(binary):
        return None
    found = pc.fill_null(pa.array(binary).take(encoded.indices), False)
    mask = np.asarray(found).astype(bool)
    if said is not None:
        mask &= np.asarray(said.is_null())
    return mask


def _against_state(
    columns: dict[str, Values], unknown: list[str], current: pa.Array | None
) -> npt.NDArray[np.int64] | int:
    """The flag of messages whose word for what the cell does speaks against their current's sign.

    Which of the two is right a single message can't tell.
    """
    if current is None:
        return 0
    sign = np.sign(np.nan_to_num(current.to_numpy(zero_copy_only=False)))
    flags = np.zeros(len(sign), dtype=np.int64)
    for name in unknown:
        if (meant := meaning(name)) is None or meant.field != STATE:
            continue
        says = states.directions(convert.texts(columns[name]).array)
        known = (says == 1) | (says == -1)
        flags[known & (sign == -says)] |= DIRECTION_DISAGREES
    return flags


def _readings_of_rows(
    raw: RawBatch, how: Interpretation, dates: Dates, rejects: Rejects, budget: Budget
) -> tuple[pa.Table, int | None]:
    """The table of `Decoded` from a table's rows, and the start of their test."""
    rows = raw.table.num_rows
    own, _ = apply.parted(raw.table)
    applied = apply.fields(raw.table, how, dates.zone)
    for mask, error, name, message in applied.bad:
        rejects.add_mask(mask, error, name, message)
    found = applied.found
    taken = {use.column for use in how.uses if use.field in _STORED or use.kept is not None}
    columns: dict[str, Values] = {
        name: own.column(name) for name in own.column_names if name not in taken
    }
    doubled = [
        (use.column, [better.column for better in how.uses[:place] if better.field == use.field])
        for place, use in enumerate(how.uses)
        if use.why == SECOND and use.column in own.column_names
    ]
    unknown = list(columns)
    columns |= {name: own.column(name) for name in own.column_names if name in taken}
    extra = extras.of_table(columns, unknown, doubled)
    if extra is not None:
        found["extra"] = extras.unnested(extra) if "extra" in unknown else extra
    one_test = "equipment_id" not in found
    _refuse_long(found, budget, rejects)
    found = _own_columns(found, raw.origin, None, rows, budget, rejects)
    _refuse_long(found, budget, rejects)
    found["recorded_at"], assumed = event_time(found, rows, False, raw.origin.last_s)
    if "source_row" not in found:
        places = np.arange(rows, dtype=np.int64) + raw.origin.first_row
        found["source_row"] = pa.array(places)
    if how.compared and "record_index" not in found:
        _tell_apart(found, rows)
    if how.is_cell and "equipment_type" not in found:
        found["equipment_type"] = pa.repeat(pa.scalar("battery_cell"), rows)
    start = _test_start(raw.origin, found["recorded_at"]) if one_test else None
    flags = np.where(assumed, EVENT_TIME_ASSUMED, 0).astype(np.int64) | applied.flags
    return _finished(found, flags, rows, rejects, how.sampling_s), start


def _tell_apart(found: dict[str, pa.Array], rows: int) -> None:
    """Numbers rows of one moment of which two are the same: a logger's clock may stand still.

    Without this they would be taken for one reading that came twice. All rows of such a moment get
    a record number, from 1, so that they keep the file's order; the others have none.
    """
    if rows < 2:
        return
    moments = np.ones(rows, dtype=bool)
    clocks = [found[name] for name in ("recorded_at", "test_time_s") if name in found]
    moments[1:] = ~convert.as_before(clocks, rows)
    if moments.all():
        return
    run = np.cumsum(moments) - 1
    shared = np.flatnonzero(np.bincount(run)[run] > 1)
    told = [found[name] for name in ("equipment_id", *MEASURED) if name in found]
    keys = [run[shared], *(_codes(array.take(pa.array(shared))) for array in told)]
    order = np.lexsort(keys[::-1])
    same = np.ones(len(shared) - 1, dtype=bool)
    for key in keys:
        same &= np.diff(key[order]) == 0
    if not same.any():
        return
    doubtful = np.zeros(run[-1] + 1, dtype=bool)
    doubtful[run[shared[order[1:]]][same]] = True
    numbers = np.arange(rows) - np.flatnonzero(moments)[run] + 1
    found["record_index"] = pa.array(numbers, mask=~doubtful[run])


def _codes(array: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """A number per different value of a column; nulls are alike."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    encoded = array.dictionary_encode()
    codes = encoded.indices.fill_null(len(encoded.dictionary))
    return np.asarray(codes.to_numpy(zero_copy_only=False)).astype(np.int64)


def _finished(
    found: dict[str, pa.Array],
    flags: npt.NDArray[np.int64],
    rows: int,
    rejects: Rejects,
    interval_s: float | None = None,
) -> pa.Table:
    _types(found, rejects)
    if (resistance := found.get("internal_resistance_ohm")) is not None:
        # Arbin writes 0 until the first pulse has been measured.
        found["internal_resistance_ohm"] = pc.if_else(
            pc.equal(resistance, 0.0), pa.scalar(None, pa.float64()), resistance
        )
    kept = np.ones(rows, dtype=bool)
    if rejects.rows:
        kept[list(rejects.rows)] = False
    return _assemble(found, flags, kept, interval_s)


def _test_start(origin: Origin, recorded: pa.Array) -> int | None:
    if origin.test_start_us is not None:
        return origin.test_start_us
    earliest = pc.min(recorded.cast(pa.int64())).as_py()
    return None if earliest is None else int(earliest)


def _assemble(
    found: dict[str, pa.Array], flags: npt.NDArray[np.int64], kept: Mask, interval_s: float | None
) -> pa.Table:
    columns: dict[str, pa.Array] = {}
    for name in READING.names:
        array = found.get(name)
        if array is None or array.null_count == len(array):
            continue
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        columns[name] = array.dictionary_encode() if name in _LOW_CARDINALITY else array
    columns["flags"] = pa.array(flags)
    if interval_s is not None:
        columns["interval_s"] = pa.array(np.full(len(kept), interval_s))
    columns["row"] = pa.array(np.arange(len(kept), dtype=np.int64))
    table = pa.table(columns)
    return table if kept.all() else table.filter(pa.array(kept))


class _DecodeBatch(beam.DoFn):
    def __init__(
        self, time_zone: str, day_first: bool | None, budget: Budget, binary_keys: str
    ) -> None:
        self._how = time_zone, day_first, budget, binary_keys
        self._dead = Metrics.counter("account", "dead_letters")

    def process(self, raw: RawBatch) -> Iterable[Decoded]:
        decoded, rejects = raw.ahead or decode(raw, *self._how)
        if rejects.rows:
            self._dead.inc(len(rejects.rows))
            for letters in letters_in_parts(raw, rejects, STEP):
                yield beam.pvalue.TaggedOutput("dead_letters", letters)
        if decoded.table.num_rows:
            yield decoded


class Decode(beam.PTransform):
    """Raw batches → `Decoded` (main output) and tables of dead letters (`dead_letters`)."""

    def __init__(
        self,
        time_zone: str = "UTC",
        day_first: bool | None = None,
        budget: Budget = USUAL,
        binary_keys: str = BINARY_KEYS[0],
    ) -> None:
        super().__init__()
        self._how = time_zone, day_first, budget, binary_keys

    def expand(self, batches: beam.PCollection) -> Any:
        """Adds the step."""
        step = beam.ParDo(_DecodeBatch(*self._how))
        typed = step.with_output_types(Decoded, dead_letters=pa.Table)
        return batches | typed.with_outputs("dead_letters", main="readings")
