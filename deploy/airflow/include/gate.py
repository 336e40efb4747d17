"""Judges what a run found: is there anything new, is it good enough, is it stale?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

Found = Mapping[str, Any]
TOTALS = ("readings", "dead_letters", "lake_files", "lake_bytes")


class QualityTooLow(RuntimeError):
    """What arrived is not good enough; the message has the numbers."""


@dataclass(frozen=True)
class Thresholds:
    """Where the gate closes.

    Attributes:
        max_dead_letter_share: of what is new since the last good run, 0 to 1.
        max_flagged_share: of the readings of the days that the interval touches, 0 to 1.
        stale_after_hours: age of the newest arrival at the interval's end; 0 for no limit.
    """

    max_dead_letter_share: float = 0.05
    max_flagged_share: float = 0.5
    stale_after_hours: float = 24.0

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Thresholds:
        """Those that a run's parameters name."""
        return cls(**{name: float(params[name]) for name in cls.__dataclass_fields__})


def new(found: Found) -> str:
    """What came since the last good run, in words; empty if nothing did.

    Totals are compared, not times: a run that failed, was late or never took place leaves its
    share to the next one, whatever the clocks of producers and files say.
    """
    before = found["last"] or dict.fromkeys(TOTALS, 0)
    changed = [
        f"{name.replace('_', ' ')} {before[name]:,} → {found[name]:,}"
        for name in TOTALS
        if found[name] != before[name]
    ]
    return ", ".join(changed)


def problems(found: Found, quality: Found, limits: Thresholds, end: datetime) -> list[str]:
    """What speaks against the run, each with its numbers; none if all is well.

    Args:
        found: what the warehouse held before the models were built, as `warehouse.py state` says.
        quality: what the models say, as `warehouse.py quality` says.
        limits: where the gate closes.
        end: the end of the run's data interval.
    """
    told = []
    before = found["last"] or dict.fromkeys(TOTALS, 0)
    letters = found["dead_letters"] - before["dead_letters"]
    arrived = found["readings"] - before["readings"] + letters
    if arrived > 0 and letters / arrived > limits.max_dead_letter_share:
        told.append(
            f"{letters:,} of {arrived:,} new messages are dead letters: {letters / arrived:.1%}, "
            f"allowed {limits.max_dead_letter_share:.1%} (all so far: {quality['rejects_by_rule']})"
        )
    if quality["delivered"] < found["readings"]:
        told.append(
            f"the models hold {quality['delivered']:,} of {found['readings']:,} readings: "
            "data_quality_daily was not built from all of them"
        )
    readings, flagged = quality["readings"], quality["flagged"]
    if readings and flagged / readings > limits.max_flagged_share:
        told.append(
            f"{flagged:,} of {readings:,} readings of {quality['days']} are flagged: "
            f"{flagged / readings:.1%}, allowed {limits.max_flagged_share:.1%}"
        )
    age = age_of(found, end)
    if limits.stale_after_hours and age > timedelta(hours=limits.stale_after_hours):
        told.append(f"{stale(found, end)}, allowed {limits.stale_after_hours:g} h")
    return told


def age_of(found: Found, end: datetime) -> timedelta:
    """How long before `end` the newest arrival came; below zero if it came after it."""
    newest = found["newest"]
    if not newest:
        return timedelta(0)
    # By seconds: Airflow's times are of a kind of their own, and so would be their difference.
    return timedelta(seconds=end.timestamp() - datetime.fromisoformat(newest).timestamp())


def stale(found: Found, end: datetime) -> str:
    """The age of the newest arrival in words."""
    hours = age_of(found, end) / timedelta(hours=1)
    return f"the newest arrival is of {found['newest']}, {hours:.1f} h before {end.isoformat()}"


def alarm(found: Found, limits: Thresholds, start: datetime, end: datetime) -> bool:
    """Whether it is in this very interval that the newest arrival gets too old, or so old again.

    So silence is told once for every `stale_after_hours` that it lasts, not every hour, and a
    backfill of an old interval tells nothing.
    """
    limit = timedelta(hours=limits.stale_after_hours)
    if not limit or not found["newest"]:
        return False
    return age_of(found, end) // limit > max(age_of(found, start) // limit, 0)


def account(found: Found) -> str:
    """The account of the run's interval and of everything, in two lines."""
    here = found["interval"]
    read = here["readings"] + here["dead_letters"]
    total = found["readings"] + found["dead_letters"]
    return (
        f"arrived in the interval: read {read:,} = written {here['readings']:,} + "
        f"dead letters {here['dead_letters']:,}\n"
        f"in the warehouse: read {total:,} = written {found['readings']:,} + "
        f"dead letters {found['dead_letters']:,}; since the last good run: {new(found) or 'nothing'}"
    )
