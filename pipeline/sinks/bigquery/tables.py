"""The tables of the warehouse in BigQuery: looked at, created, and given new columns."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from google.api_core import exceptions
from google.cloud import bigquery

from pipeline.errors import ConfigError
from pipeline.sinks.bigquery import client
from pipeline.sinks.bigquery.address import Address
from schemas.forms import bigquery_schema
from schemas.reading import DEAD_LETTER, READING, TABLES, Table

_LOG = logging.getLogger(__name__)
# One question; some are asked, and all must be answered before anybody wonders.
CALL_S = 10.0
# Queries on these must name the days they mean, so that nobody pays for a fleet's whole history.
_FILTERED = (READING, DEAD_LETTER)
# The API answers with the older names.
_SAME_TYPE = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL", "RECORD": "STRUCT"}

Found = Mapping[str, bigquery.Table]


def fields(table: Table) -> list[bigquery.SchemaField]:
    """The columns of `table` as the client takes them."""
    return [bigquery.SchemaField.from_api_repr(field) for field in bigquery_schema(table)]


def look(address: Address) -> dict[str, bigquery.Table]:
    """The tables that are there, by name."""
    asked = client.rest(address)
    found = {}
    for table in TABLES:
        try:
            found[table.name] = asked.get_table(
                address.table(table.name), retry=client.ONCE, timeout=CALL_S
            )
        except exceptions.NotFound:
            continue
    return found


def lacking(table: Table, found: bigquery.Table) -> list[str]:
    """The columns of `table` that the one in BigQuery has not."""
    there = {field.name.lower() for field in found.schema}
    return [name for name in table.names if name not in there]


def check(address: Address, found: Found) -> None:
    """Whether rows of this job can be written to the tables that are there.

    Columns that the job does not know may be there; a newer job may have made them.

    Raises:
        ConfigError: a column has another type or must have what the job does not give.
    """
    for table in TABLES:
        if table.name in found:
            _check_columns(address, table, found[table.name])
            _check_layout(address, table, found[table.name])


def _check_columns(address: Address, table: Table, found: bigquery.Table) -> None:
    there = {field.name.lower(): field for field in found.schema}
    for wanted in fields(table):
        has = there.pop(wanted.name, None)
        if has is not None and _kind(has) != _kind(wanted):
            raise ConfigError(
                f"{address.told}: column {table.name}.{wanted.name} is {_kind(has)} and should be "
                f"{_kind(wanted)}; rename the table or give another dataset"
            )
        if has is not None and has.mode == "REQUIRED" != wanted.mode:
            raise ConfigError(
                f"{address.told}: column {table.name}.{wanted.name} is REQUIRED, but not every "
                f"row has it; relax it: ALTER TABLE `{address.table(table.name)}` ALTER COLUMN "
                f"{wanted.name} DROP NOT NULL"
            )
    for unknown in there.values():
        if unknown.mode == "REQUIRED" and unknown.default_value_expression is None:
            raise ConfigError(
                f"{address.told}: column {table.name}.{unknown.name} is REQUIRED, and this job "
                f"does not know it; relax it: ALTER TABLE `{address.table(table.name)}` ALTER "
                f"COLUMN {unknown.name} DROP NOT NULL"
            )


def _kind(field: bigquery.SchemaField) -> str:
    kind = _SAME_TYPE.get(field.field_type, field.field_type)
    return f"ARRAY<{kind}>" if field.mode == "REPEATED" else kind


def _check_layout(address: Address, table: Table, found: bigquery.Table) -> None:
    by = found.time_partitioning
    partition = by.field if by is not None and by.type_ == "DAY" else None
    if table.partition is not None and partition != table.partition:
        _LOG.warning(
            "%s: table %s is not partitioned by the day of %s, so queries read more than they "
            "need; a table's partitioning can't be changed: rename it and copy its rows into the "
            "one this job then makes", address.told, table.name, table.partition,
        )  # fmt: skip
    if list(found.clustering_fields or ()) != list(table.cluster):
        _LOG.warning(
            "%s: table %s is not clustered by %s, so queries read more than they need; "
            "bq update --clustering_fields=%s %s:%s.%s changes that", address.told, table.name,
            ", ".join(table.cluster), ",".join(table.cluster), address.project, address.dataset,
            table.name,
        )  # fmt: skip


def make(address: Address, found: Found) -> None:
    """Creates the tables that are not there, and adds the columns that older ones lack.

    Raises:
        ConfigError: this account may not.
    """
    for table in TABLES:
        try:
            if table.name not in found:
                _create(address, table)
            elif lacking(table, found[table.name]):
                _add_columns(address, table)
        except exceptions.Forbidden as error:
            raise ConfigError(
                f"{address.told}: this account may not create or change table {table.name}; grant "
                "it roles/bigquery.dataEditor on the dataset"
            ) from error


def _create(address: Address, table: Table) -> None:
    wanted = bigquery.Table(address.table(table.name), schema=fields(table))
    wanted.description = table.description
    if table.partition is not None:
        wanted.time_partitioning = bigquery.TimePartitioning(field=table.partition)
        wanted.require_partition_filter = table in _FILTERED
    if table.cluster:
        wanted.clustering_fields = list(table.cluster)
    # Another job may be faster; its table is as good.
    client.rest(address).create_table(wanted, exists_ok=True, timeout=CALL_S)


def _add_columns(address: Address, table: Table, tries: int = 3) -> None:
    asked = client.rest(address)
    found = asked.get_table(address.table(table.name), timeout=CALL_S)
    missing = lacking(table, found)
    added = []
    for field in fields(table):
        if field.name in missing:
            described = field.to_api_repr()
            # The rows that are there have no value.
            if described["mode"] == "REQUIRED":
                described["mode"] = "NULLABLE"
            added.append(bigquery.SchemaField.from_api_repr(described))
    if not added:
        return
    found.schema = [*found.schema, *added]
    try:
        # Only as long as nobody else has changed the table since.
        asked.update_table(found, ["schema"], timeout=CALL_S)
    except exceptions.PreconditionFailed:
        if tries <= 1:
            raise
        _add_columns(address, table, tries - 1)
        return
    _LOG.warning("%s: table %s has new columns: %s", address.told, table.name, ", ".join(missing))
