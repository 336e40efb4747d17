"""Finds out whether keyspace and tables are there and fit; makes what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cassandra import InvalidRequest
from cassandra.cluster import Session

from pipeline.connect.cassandra import PASSING, Connection
from pipeline.errors import ConfigError
from pipeline.sinks.cassandra.target import Target
from schemas import forms
from schemas.reading import EQUIPMENT_PROFILE, TABLES, Table

_COPIES = 3
# Files of rows that expire together are dropped whole, some thirty of them.
_FILES = 30
_DAY_S = 86_400


@dataclass
class Found:
    """What of the job's keyspace is there.

    Attributes:
        keyspace: whether the keyspace is.
        missing: of each table that is there, the columns it lacks, with their types.
    """

    keyspace: bool = False
    missing: dict[str, dict[str, str]] = field(default_factory=dict)


def full_name(target: Target, table: Table) -> str:
    """A table's name as CQL has it."""
    return f'"{target.address.keyspace}".{forms.cassandra_name(table)}'


def look(session: Session, target: Target) -> Found:
    """What is there; changes nothing.

    Raises:
        ConfigError: a table can't be written as it is.
        Unauthorized: the account may not write to one.
    """
    keyspace = target.address.keyspace
    asked = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = %s"
    if session.execute(asked, [keyspace]).one() is None:
        return Found()
    found = Found(keyspace=True)
    asked = (
        "SELECT table_name, column_name, type, kind, position FROM system_schema.columns "
        "WHERE keyspace_name = %s"
    )
    there: dict[str, dict[str, tuple[str, str, int]]] = {}
    for name, column, kind, role, place in session.execute(asked, [keyspace]):
        there.setdefault(name, {})[column] = (kind, role, place)
    for table in TABLES:
        columns = there.get(forms.cassandra_name(table))
        if columns is not None:
            found.missing[table.name] = fit(target, table, columns)
            _may_write(session, target, table)
    return found


def unfit(
    connection: Connection, target: Target, wanted: Iterable[Table], refused: bool
) -> str | None:
    """What is wrong by now with tables that were right when the job began, and the fix.

    Waiting does not mend it. None if nothing is wrong, or nobody answers.

    Args:
        connection: the connection.
        target: the keyspace.
        wanted: the tables.
        refused: whether a request was refused. Else it may be that nobody answered in time, and
            what a login or a node says meanwhile may pass.
    """
    again = "run the job again: it mends the tables when it starts, and goes on where it was"
    try:
        found = look(connection.session(), target)
    except ConfigError as wrong:
        return str(wrong) if refused else None
    except PASSING:
        # Whoever asks next finds out.
        return None
    for table in wanted:
        told = f"{target.told}, table {forms.cassandra_name(table)}"
        if table.name not in found.missing:
            return f"{told}: it is not there any more; {again}"
        if lacking := found.missing[table.name]:
            return f"{told}: it lacks {', '.join(lacking)} by now; {again}"
    return None


def fit(target: Target, table: Table, there: Mapping[str, tuple[str, str, int]]) -> dict[str, str]:
    """The columns that a table lacks, with their types.

    Args:
        target: the keyspace.
        table: what it should be.
        there: type, kind (`partition_key`, `clustering`, `regular` or `static`) and place in the
            key of each column that is there.

    Raises:
        ConfigError: it has another key, or a column of another type.
    """
    name = forms.cassandra_name(table)
    advice = "rename the table (its rows can be exported and read as a --source) or give another keyspace"
    wanted = forms.cassandra_key(table)
    key = tuple(
        tuple(sorted((c for c in there if there[c][1] == role), key=lambda c: there[c][2]))
        for role in ("partition_key", "clustering")
    )
    if key != wanted:
        raise ConfigError(
            f"{target.told}: table {name} has the key {_key(*key)} and should have "
            f"{_key(*wanted)}; {advice}"
        )
    types = forms.cassandra_types(table)
    for column, kind in types.items():
        if column in there and there[column][0] != kind:
            raise ConfigError(
                f"{target.told}: column {name}.{column} is {there[column][0]} and should be "
                f"{kind}; {advice}"
            )
    return {column: kind for column, kind in types.items() if column not in there}


def _key(partition: tuple[str, ...], order: tuple[str, ...]) -> str:
    return f"(({', '.join(partition)}){''.join(f', {name}' for name in order)})"


def _may_write(session: Session, target: Target, table: Table) -> None:
    """Writes a row without a key, which nobody can: who may write is told so, others Unauthorized."""
    partition, order = forms.cassandra_key(table)
    names = (*partition, *order)
    try:
        session.execute(
            f"INSERT INTO {full_name(target, table)} ({', '.join(names)}) "  # noqa: S608
            f"VALUES ({', '.join(['null'] * len(names))})"
        )
    except InvalidRequest:
        return


def make(session: Session, target: Target, found: Found) -> None:
    """Makes keyspace, tables and columns that are not there.

    Raises:
        Unauthorized: the account may not.
    """
    if not found.keyspace:
        session.execute(
            f'CREATE KEYSPACE IF NOT EXISTS "{target.address.keyspace}" '
            f"WITH replication = {_replication(session, target)}"
        )
    for table in TABLES:
        if table.name not in found.missing:
            statement = forms.cassandra_ddl(table, target.address.keyspace)
            session.execute(statement + _options(target, table))
        for column, kind in found.missing.get(table.name, {}).items():
            session.execute(f"ALTER TABLE {full_name(target, table)} ADD {column} {kind}")


def _replication(session: Session, target: Target) -> dict[str, object]:
    """Named by data centre: Cassandra 3 knows no number for all of them."""
    nodes = [host.datacenter for host in session.cluster.metadata.all_hosts()]
    copies = dict(target.replication)
    every = copies.pop("", None)
    if every or not copies:
        copies = {name: every or min(_COPIES, nodes.count(name)) for name in nodes}
    return {"class": "NetworkTopologyStrategy", **copies}


def _options(target: Target, table: Table) -> str:
    if not target.ttl_s or table == EQUIPMENT_PROFILE:
        return ""
    days = max(1, target.ttl_s // (_DAY_S * _FILES))
    return (
        " WITH compaction = {'class': 'TimeWindowCompactionStrategy', "
        f"'compaction_window_unit': 'DAYS', 'compaction_window_size': {days}}}"
    )
