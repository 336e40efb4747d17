"""Keep the history of a cell's health in a bounded number of points.

Points are averaged in groups of 1, 2, 4, … so that never more than `MOST` groups are kept: when
they are full, neighbours are merged and the groups double. A group's state of health is the mean
weighted by the inverse variance, so that lines fitted through groups are about those fitted through
the points.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MOST: Final = 128  # groups
VERSION: Final = 1
UNKNOWN_ERROR: Final = 0.005  # of a state of health that comes without one
_LEAST_ERROR: Final = 1e-5
_COLUMNS: Final = 7  # of a group: see `Group`
_HEAD: Final = struct.Struct("<2sBBBxHIq")
_MAGIC: Final = b"lh"
_POINT: Final = struct.Struct("<q5d")
_GROUP: Final = struct.Struct(f"<{_COLUMNS}f")
MOST_BYTES: Final = _HEAD.size + _POINT.size + (MOST + 1) * _GROUP.size

# cycle, throughput, soh, its error, resistance, temperature, points
Group = tuple[float, float, float, float, float, float, float]


class HistoryError(ValueError):
    """Bytes that are no history, or one of another version."""


@dataclass(frozen=True, slots=True)
class Point:
    """What one cycle says of a cell.

    Attributes:
        cycle: number of the cycle over the cell's life.
        throughput: equivalent full cycles since the life's begin, up to this cycle's end; where they
            are not known, the cycle number.
        soh: state of health, capacity over the reference that the threshold is meant of (nominal or
            initial); 1 is a fresh cell.
        error: standard error of soh; NaN for not known.
        resistance: ohm; NaN for not known.
        temperature: mean of the cycle, degrees C; NaN for not known.
    """

    cycle: int
    throughput: float
    soh: float
    error: float = math.nan
    resistance: float = math.nan
    temperature: float = math.nan


@dataclass(frozen=True)
class Columns:
    """The groups of a history as arrays (n,), oldest first; as in `Point`, means of each group."""

    cycle: Floats
    throughput: Floats
    soh: Floats
    error: Floats
    resistance: Floats
    temperature: Floats
    points: Floats


class History:
    """A cell's health over its life, bounded."""

    __slots__ = ("_groups", "_last", "_level", "_open", "_points")

    def __init__(self) -> None:
        self._groups: list[Group] = []
        self._level = 0  # a whole group has 2 ** level points
        self._open: Group | None = None  # the group that is not yet whole
        self._last: Point | None = None  # not yet in a group: a correction may still replace it
        self._points = 0

    @property
    def last(self) -> Point | None:
        """The newest point; None where there is none."""
        return self._last

    def __len__(self) -> int:
        """Points that were added, corrections not counted."""
        return self._points

    def add(self, point: Point) -> bool:
        """Adds a point, or replaces the newest by a new version of the same cycle.

        Returns:
            False where nothing was changed: the point has no state of health or no throughput, or
            its cycle lies before the newest one, whose group is closed.
        """
        if not (math.isfinite(point.soh) and math.isfinite(point.throughput)):
            return False
        last = self._last
        if last is not None:
            if point.cycle < last.cycle or (
                point.cycle > last.cycle and point.throughput < last.throughput
            ):
                return False
            if point.cycle > last.cycle:
                self._push(_group(last))
        if last is None or point.cycle > last.cycle:
            self._points += 1
        self._last = point
        return True

    def _push(self, group: Group) -> None:
        whole = _kept(_merged(self._open, group) if self._open is not None else group)
        if whole[6] < 1 << self._level:
            self._open = whole
            return
        self._open = None
        self._groups.append(whole)
        if len(self._groups) == MOST:
            pairs = zip(self._groups[::2], self._groups[1::2], strict=True)
            self._groups = [_kept(_merged(a, b)) for a, b in pairs]
            self._level += 1

    def columns(self) -> Columns:
        """All that is known, (n,) each; n is at most MOST + 1."""
        groups = list(self._groups)
        if self._open is not None:
            groups.append(self._open)
        if self._last is not None:
            groups.append(_group(self._last))
        table = np.array(groups, np.float64).reshape(-1, _COLUMNS)
        return Columns(*table.T)

    def to_bytes(self) -> bytes:
        """Packed; at most MOST_BYTES."""
        if self._last is None:
            return b""
        p = self._last
        parts = [
            _HEAD.pack(_MAGIC, VERSION, self._level, self._open is not None,
                       len(self._groups), self._points, 0),
            _POINT.pack(p.cycle, p.throughput, p.soh, p.error, p.resistance, p.temperature),
        ]  # fmt: skip
        parts += [_GROUP.pack(*group) for group in self._groups]
        if self._open is not None:
            parts.append(_GROUP.pack(*self._open))
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> History:
        """Unpacks; no bytes are an empty history.

        Raises:
            HistoryError: not what `to_bytes` of this version gives.
        """
        history = cls()
        if not data:
            return history
        try:
            magic, version, level, has_open, count, points, _ = _HEAD.unpack_from(data)
        except struct.error as error:
            raise HistoryError(f"{len(data)} bytes are no history of a cell's health") from error
        if magic != _MAGIC or version != VERSION:
            raise HistoryError(
                f"a history of version {VERSION} is wanted, not {magic!r} of version {version}"
            )
        begins = _HEAD.size + _POINT.size
        if len(data) != begins + (count + has_open) * _GROUP.size:
            raise HistoryError(f"a history of {count} groups has not {len(data)} bytes")
        history._last = Point(*_POINT.unpack_from(data, _HEAD.size))
        groups: list[Group] = list(_GROUP.iter_unpack(data[begins:]))
        history._open = groups.pop() if has_open else None
        history._groups, history._level, history._points = groups, level, points
        return history


def _group(p: Point) -> Group:
    error = p.error if math.isfinite(p.error) else UNKNOWN_ERROR
    return (
        float(p.cycle), p.throughput, p.soh, max(error, _LEAST_ERROR), p.resistance, p.temperature,
        1.0,
    )  # fmt: skip


def _kept(group: Group) -> Group:
    """As it is packed, so that a history that was unpacked gives the same figures to the last bit."""
    kept: Group = _GROUP.unpack(_GROUP.pack(*group))
    return kept


def _merged(a: Group, b: Group) -> Group:
    """One group of two; its state of health weighted by inverse variance, the rest by points."""
    wa, wb = 1.0 / (a[3] * a[3]), 1.0 / (b[3] * b[3])
    share = wb / (wa + wb)
    points = a[6] + b[6]
    part = b[6] / points

    def mean(left: float, right: float) -> float:
        if math.isnan(left):
            return right
        return left if math.isnan(right) else left + part * (right - left)

    # Where a cell stood when it had this health: weighted as the health is.
    return (
        a[0] + share * (b[0] - a[0]),
        a[1] + share * (b[1] - a[1]),
        a[2] + share * (b[2] - a[2]),
        (wa + wb) ** -0.5,
        mean(a[4], b[4]),
        mean(a[5], b[5]),
        points,
    )
