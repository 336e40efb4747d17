"""What the next readings of cells need to know of their cycles, as tables that state can keep."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from schemas.profiles import Profile
from transforms.batch import PackedBatch, stack
from transforms.cycles import rows as row_columns
from transforms.cycles.ended import Emitted, Ended, Head, OpenCycles
from transforms.cycles.measure import CellLimits
from transforms.cycles.noise import Noise
from transforms.cycles.swings import Level
from transforms.limits import Limits, codes

# State is read piece by piece: many small ones are made one.
_MOST_PIECES = 64
_PIECES = b"pieces"
_LEVEL = "level_"
_PLAIN = tuple(each.name for each in fields(Head) if each.name not in ("level", "noise", "emitted"))
_LEVELS = tuple(each.name for each in fields(Level))


class Change(NamedTuple):
    """What became of a shard's state with a release.

    Attributes:
        heads: a table as of `heads_table`: all of the shard.
        added: readings that wait beside those that did.
        replaced: all that wait, instead of those that did; None: they go on waiting.
    """

    heads: PackedBatch
    added: PackedBatch | None
    replaced: PackedBatch | None = None


def heads_table(heads: dict[str, Head]) -> pa.Table:
    """A row per cell."""
    values = list(heads.values())
    columns: dict[str, Any] = {"equipment_id": pa.array(list(heads), pa.string())}
    for name in _PLAIN:
        columns[name] = pa.array([getattr(head, name) for head in values])
    columns["test_id"] = pa.array([head.test_id for head in values], pa.string())
    for name in _LEVELS:
        columns[f"{_LEVEL}{name}"] = pa.array(
            [getattr(head.level, name) for head in values],
            pa.float64() if name.endswith("_ah") else pa.int64(),
        )
    columns["noise"] = pa.array([json.dumps(head.noise) for head in values], pa.string())
    columns["emitted"] = pa.array(
        [json.dumps(head.emitted) if head.emitted else "" for head in values], pa.string()
    )
    return pa.table(columns)


def heads_of(table: pa.Table) -> dict[str, Head]:
    """The opposite of `heads_table`.

    Raises:
        KeyError, TypeError, ValueError: the table is none.
    """
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    plain = [columns[name] for name in _PLAIN]
    levels = [columns[f"{_LEVEL}{name}"] for name in _LEVELS]
    out = {}
    for row, name in enumerate(columns["equipment_id"]):
        known = dict(zip(_PLAIN, (column[row] for column in plain), strict=True))
        level = Level(**dict(zip(_LEVELS, (column[row] for column in levels), strict=True)))
        told = columns["emitted"][row]
        noise = Noise(*json.loads(columns["noise"][row]))
        emitted = tuple(Emitted(*each) for each in json.loads(told)) if told else ()
        noise = noise._replace(differences_v=tuple(noise.differences_v))
        out[name] = Head(**known, level=level, noise=noise, emitted=emitted)
    return out


class Shard:
    """The cycles of one shard's cells, in the state of the step that puts readings in order.

    Args:
        profiles: of the equipments.
        keep_us: see `OpenCycles`.
        rows: the bag of readings that wait.
        heads: the value that holds `heads_table`.
    """

    def __init__(self, profiles: Sequence[Profile], keep_us: int, rows: Any, heads: Any) -> None:
        self._open = OpenCycles(profiles, keep_us, bounded=False)
        self._rows, self._heads = rows, heads
        self._pieces = 0
        known = heads.read()
        if known is not None:
            table = known.table
            self._open.heads = heads_of(table)
            self._pieces = int((table.schema.metadata or {}).get(_PIECES, b"0"))

    @property
    def limits(self) -> CellLimits:
        """The profiles' values."""
        return self._open.limits

    def feed(self, table: pa.Table, horizon_us: int) -> tuple[Ended | None, Change | None]:
        """As `OpenCycles.feed`; also what changed, None if no reading is of a cell."""
        mine = row_columns.of_cells(table)
        if not mine.num_rows:
            return None, None
        names = self._open.worth_looking(mine)
        if not names and self._pieces < _MOST_PIECES:
            added = PackedBatch(mine).packed()
            self._rows.add(added)
            self._pieces += 1
            return None, Change(self._written(), added)
        self._open.pieces = [*(piece.table for piece in self._rows.read()), mine]
        ended = self._open.look(names, horizon_us) if names else None
        self._rows.clear()
        waiting = stack(self._open.pieces) if self._open.pieces else mine.slice(0, 0)
        replaced = PackedBatch(waiting).packed()
        self._rows.add(replaced)
        self._pieces = 1
        return ended, Change(self._written(), None, replaced)

    def _written(self) -> PackedBatch:
        table = heads_table(self._open.heads)
        table = table.replace_schema_metadata({_PIECES: str(self._pieces)})
        packed = PackedBatch(table).packed()
        self._heads.write(packed)
        return packed


def change_of(cells: OpenCycles) -> Change:
    """All that is to be remembered of a shard's cells."""
    waiting = stack(cells.pieces) if cells.pieces else pa.table({})
    return Change(
        PackedBatch(heads_table(cells.heads)).packed(), None, PackedBatch(waiting).packed()
    )


class Kept(NamedTuple):
    """What a run remembers of cycles that go on.

    Attributes:
        heads: a table as of `heads_table`.
        rows: the readings that wait.
    """

    heads: pa.Table
    rows: pa.Table


def together(shards: Iterable[tuple[pa.Table, Sequence[pa.Table]]]) -> Kept | None:
    """The heads and waiting readings of several shards, which share no cell, as one."""
    heads: list[pa.Table] = []
    rows: list[pa.Table] = []
    for each, pieces in shards:
        heads.append(each.replace_schema_metadata(None))
        rows += [piece for piece in pieces if piece.num_rows]
    if not heads or not rows:
        return None
    return Kept(stack(heads), stack(rows))


def with_profiles(kept: Kept, limits: Limits) -> Kept:
    """The same with the profiles of this run, which may be others than those it was kept with."""
    rows = kept.rows
    rows = rows.append_column(
        "equipment_type", pa.array(["battery_cell"] * rows.num_rows).dictionary_encode()
    )
    profile = pa.array(limits.rows(rows), pa.int32())
    place = rows.column_names.index("profile")
    rows = rows.set_column(place, "profile", profile).drop_columns(["equipment_type"])
    return Kept(kept.heads, rows)


def by_shard(kept: Kept, shards: Any, count: int) -> Iterator[tuple[int, Kept]]:
    """Cuts what was kept by shard.

    Args:
        kept: heads and rows.
        shards: `identity.shards`.
        count: how many shards there are.
    """
    of_heads = shards(kept.heads.column("equipment_id").to_pylist(), count)
    ids, which = codes(kept.rows, "equipment_id")
    of_rows = shards(ids.to_pylist(), count)[which]
    for shard in np.unique(of_heads).tolist():
        yield (
            shard,
            Kept(
                kept.heads.filter(pa.array(of_heads == shard)),
                kept.rows.filter(pa.array(of_rows == shard)).combine_chunks(),
            ),
        )
