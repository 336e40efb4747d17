"""Finds the dead letters that meet a condition, in a lake or a warehouse."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.connect import topics
from pipeline.errors import ConfigError
from pipeline.replaying import fields
from pipeline.replaying.options import Replay
from pipeline.report import warehouse
from pipeline.shown import address
from pipeline.sinks.lake import files
from pipeline.stores import store_at
from schemas.aliases import resolve
from schemas.forms import arrow_schema
from schemas.reading import DEAD_LETTER, READING

_SCHEMA = arrow_schema(DEAD_LETTER)
_FOLDER = DEAD_LETTER.name
_ROWS = 20_000


@dataclass
class Found:
    """The letters that meet the condition.

    Attributes:
        letters: of schema DEAD_LETTER, each once, in order of their arrival.
        looked_at: how many there are in all.
        kinds: of all of them, how often each error type.
    """

    letters: pa.Table
    looked_at: int = 0
    kinds: Counter[str] = field(default_factory=Counter)


def find(replay: Replay) -> Found:
    """Looks through all letters.

    Raises:
        ConfigError: there are none, or the condition can't be understood.
    """
    found = Found(_SCHEMA.empty_table())
    parts: list[pa.Table] = []
    seen: set[str] = set()
    with contextlib.closing(fields.database()) as database:
        for part in _parts(replay):
            ids = part.column("dead_letter_id").to_pylist()
            new = [place for place, key in enumerate(ids) if key not in seen]
            seen.update(ids)
            letters = _told(part.take(pa.array(new, pa.int64())))
            found.looked_at += letters.num_rows
            found.kinds.update(letters.column("error_type").to_pylist())
            parts.append(_meeting(database, letters, replay.where))
    if parts:
        found.letters = pa.concat_tables(parts).sort_by(
            [("ingested_at", "ascending"), ("dead_letter_id", "ascending")]
        )
    return found


def _told(letters: pa.Table) -> pa.Table:
    """The letters with the equipment that the message names, by its payload, attributes or key.

    What could not be decoded had none when it was refused.
    """
    names = []
    for message, attributes, key, own in zip(
        fields.objects(letters),
        letters.column("attributes").to_pylist(),
        letters.column("message_key").to_pylist(),
        letters.column("equipment_id").to_pylist(),
        strict=True,
    ):
        named = [value for name, value in (message or {}).items() if _is_equipment(name)]
        named += [topics.json_object(attributes).get("equipment_id"), topics.equipment_key(key)]
        texts = (str(value).strip() for value in named if isinstance(value, str | int))
        names.append(next((text for text in texts if text), own))
    place = letters.column_names.index("equipment_id")
    return letters.set_column(place, "equipment_id", pa.array(names, pa.string()))


def _is_equipment(name: str) -> bool:
    found = resolve(name)
    return found is not None and found.field == "equipment_id"


def _meeting(database: duckdb.DuckDBPyConnection, letters: pa.Table, where: str) -> pa.Table:
    """The letters that meet the condition; null is no."""
    names = [f'letter."{name}" AS "{name}"' for name in letters.column_names]
    with fields.shown(database, letters, where):
        try:
            rows = database.execute(
                f"SELECT row FROM (SELECT row, message, letter, {', '.join(names)} FROM incoming) "  # noqa: S608
                f"WHERE ({where}) ORDER BY row"
            ).fetchall()
        except duckdb.Error as error:
            raise ConfigError(fields.told(f"--where={where}", error)) from error
    return letters.take(pa.array([row for (row,) in rows], pa.int64()))


def _parts(replay: Replay) -> Iterator[pa.Table]:
    for part in _of_warehouse(replay) if replay.lake is None else _of_lake(replay.lake):
        # An older lake or table may lack columns.
        yield pa.table(
            [
                part.column(one.name).cast(one.type)
                if one.name in part.column_names
                else pa.nulls(part.num_rows, one.type)
                for one in _SCHEMA
            ],
            schema=_SCHEMA,
        )


def _of_lake(uri: str) -> Iterator[pa.Table]:
    store = store_at(uri)
    store.check()
    paths = [
        (each.path, each.size) for each in store.files(_FOLDER) if each.path.endswith(".parquet")
    ]
    if not paths and not any(True for _ in store.files(READING.name)):
        raise ConfigError(
            f"--lake={address(uri)}: there is neither {_FOLDER}/ nor {READING.name}/ in it; give the "
            "lake that python -m pipeline wrote"
        )
    for path, size in paths:

        def look(path: str = path, size: int = size) -> pa.Table:
            with store.open(path, size) as file:
                return pq.ParquetFile(file).read()

        # One that is damaged is named by a line, and left out.
        found = files.usable(store, path, look)
        if found is not None:
            yield found


def _of_warehouse(replay: Replay) -> Iterator[pa.Table]:
    with warehouse.opened(replay.warehouse or "") as database:
        try:
            reader = database.sql(f"FROM {_FOLDER}").to_arrow_reader(_ROWS)
            for batch in reader or ():
                yield pa.Table.from_batches([batch])
        except duckdb.Error as error:
            told = str(error).strip().partition("\n")[0]
            raise ConfigError(
                f"{replay.origin}: its dead letters can't be read ({told}); give a warehouse that "
                "python -m pipeline wrote"
            ) from error
