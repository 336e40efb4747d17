"""Writes the equipment profiles that a job uses into their table, beside other jobs'."""

from __future__ import annotations

from collections.abc import Sequence

from cassandra.cluster import Session

from pipeline.sinks.cassandra import tables
from pipeline.sinks.cassandra.target import Target
from schemas import profiles
from schemas.profiles import Profile
from schemas.reading import EQUIPMENT_PROFILE


def write_profiles(session: Session, target: Target, used: Sequence[Profile]) -> None:
    """Puts the profiles in the place of those of the same names."""
    names = EQUIPMENT_PROFILE.names
    statement = session.prepare(
        f"INSERT INTO {tables.full_name(target, EQUIPMENT_PROFILE)} "  # noqa: S608
        f"({', '.join(names)}) VALUES ({', '.join(['?'] * len(names))})"
    )
    for row in profiles.rows(used):
        session.execute(statement, [row[name] for name in names])
