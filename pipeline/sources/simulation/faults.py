"""Spoil readings: the kinds of faults and the ways to make them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from pipeline.sources.simulation import draws
from pipeline.sources.simulation.arrays import Codes, Floats, Hashes, Ints
from pipeline.sources.simulation.parts import Chunk, Kind

Expected = Literal["reject", "flag"]


@dataclass(frozen=True)
class Fault:
    """A kind of faulty reading and what validation must do with it under the generic profiles."""

    name: str
    expected: Expected
    cells: bool = True
    machines: bool = True


FAULTS: Final = (
    Fault("truncated_json", "reject"),
    Fault("wrong_type", "reject"),
    Fault("missing_field", "reject"),
    Fault("nan_literal", "reject"),
    Fault("voltage_out_of_range", "reject"),
    Fault("negative_counter", "reject", machines=False),
    Fault("negative_frequency", "reject", cells=False),
    Fault("bad_timestamp", "reject"),
    Fault("future_timestamp", "reject"),
    Fault("bad_utf8", "reject"),
    Fault("voltage_above_limit", "flag", machines=False),
    Fault("voltage_below_limit", "flag", machines=False),
    Fault("frequency_off", "flag", cells=False),
    # A run of 15 readings in the CC charge (fewer where the data ends): flagged from the tenth on.
    Fault("stuck_sensor", "flag", machines=False),
)
STUCK_CODE: Final = next(c for c, f in enumerate(FAULTS, start=1) if f.name == "stuck_sensor")
_STUCK: Final = 15  # readings of a stuck sensor: 10 in a row are the usual rule


@dataclass(frozen=True)
class StuckRuns:
    """Runs of readings that repeat one, and the chance of another fault beside them."""

    rows: Ints  # (r,) positions of the readings that are stuck
    source: Ints  # (r,) the reading that each of them repeats
    chance: Floats  # (n,) of every reading, such that all faults together make up their share


def stuck_runs(
    share: float, dice: Hashes, rows: Ints, in_charge: Ints, pair: Ints, within: Ints
) -> StuckRuns:
    """Chooses where sensors of cells stick, at most once a cycle.

    Args:
        share: share of readings that are faulty in any way.
        dice: (p,) a hash of each cycle.
        rows: (p,) readings of each cycle.
        in_charge: (p,) how many of them, from the first on, are in the CC charge.
        pair: (n,) the cycle of each reading.
        within: (n,) its position within the cycle.
    """
    kinds = sum(kind.cells for kind in FAULTS)
    often = np.minimum(1.0, share / kinds * rows / _STUCK)
    often[in_charge < _STUCK + 4] = 0.0
    begins = 2 + (dice % np.maximum(in_charge - _STUCK - 3, 1).astype(np.uint64)).astype(np.int64)
    begins = np.where(draws.uniform(dice, 5) < often, begins, 1 << 40)
    into = within - begins[pair]
    run = np.flatnonzero((into >= 0) & (into < _STUCK))
    stuck = often * _STUCK / rows
    return StuckRuns(
        rows=run,
        source=run - into[run],
        chance=((share - stuck) / (1.0 - stuck))[pair],
    )


def spoil(payloads: list[bytes], chunk: Chunk, kind: Kind) -> Codes:
    """Spoils some of a chunk's payloads in place; gives the faults of all, as in Messages.

    A counter that messages of this kind lack can't be spoiled.
    """
    counted = "discharge_capacity_ah" in kind.columns
    dice = draws.mix(chunk.noise ^ draws.SALT["fault"])
    kinds = np.array(
        [
            code
            for code, fault in enumerate(FAULTS, start=1)
            if (fault.cells if kind.tests else fault.machines)
            and code != STUCK_CODE
            and (counted or fault.name != "negative_counter")
        ],
        np.int8,
    )
    hit = (chunk.fault == 0) & (draws.uniform(dice, 4) < chunk.chance)
    codes = np.where(hit, kinds[(dice % np.uint64(kinds.size)).astype(np.int64)], chunk.fault)
    for i in np.flatnonzero(hit).tolist():
        payloads[i] = _spoiled(payloads[i], FAULTS[codes[i] - 1].name, int(dice[i] >> 32))
    return codes


def _spoiled(payload: bytes, kind: str, dice: int) -> bytes:
    """The payload as a faulty gateway would send it."""
    if kind == "truncated_json":
        size = len(payload)
        return payload[: size // 10 + dice % (size * 8 // 10)]
    if kind == "bad_utf8":
        return payload.replace(b'"equipment_type":"', b'"equipment_type":"\xff\xfe', 1)
    if kind == "missing_field":
        return _with(payload, b"voltage_v", None)
    field, text = {
        "wrong_type": (b"voltage_v", b'"n/a"'),
        "nan_literal": (b"voltage_v", b"NaN"),
        "voltage_out_of_range": (b"voltage_v", b"999999.0"),
        "negative_counter": (b"discharge_capacity_ah", b"-1.0"),
        "negative_frequency": (b"frequency_hz", b"-50.0"),
        "bad_timestamp": (b"recorded_at", b'"31.31.2024 25:61"'),
        # Far ahead of any clock that reads it: the fleet itself plays in the past.
        "future_timestamp": (b"recorded_at", b'"2099-01-01T00:00:00.000Z"'),
        "voltage_above_limit": (b"voltage_v", b"4.3500"),
        "voltage_below_limit": (b"voltage_v", b"2.3500"),
        "frequency_off": (b"frequency_hz", b"46.500"),
    }[kind]
    return _with(payload, field, text)


def _with(payload: bytes, field: bytes, text: bytes | None) -> bytes:
    """Replaces a field's value, or drops the field; it is not the object's last."""
    name = b'"' + field + b'":'
    begins = payload.index(name)
    ends = payload.index(b',"', begins)
    middle = b"" if text is None else name + text
    rest = payload[ends + 1 :] if text is None else payload[ends:]
    return payload[:begins] + middle + rest
