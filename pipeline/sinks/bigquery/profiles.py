"""Writes the equipment profiles that a job uses into their table, beside other jobs'."""

from __future__ import annotations

from collections.abc import Sequence

from google.cloud import bigquery

from pipeline.sinks.bigquery import client, tables
from pipeline.sinks.bigquery.address import Address
from schemas import profiles
from schemas.profiles import Profile
from schemas.reading import EQUIPMENT_PROFILE


def write(address: Address, used: Sequence[Profile]) -> None:
    """Puts the profiles in the place of those of the same names; does nothing if they are there."""
    asked = client.rest(address)
    name = address.table(EQUIPMENT_PROFILE.name)
    found = asked.get_table(name, timeout=tables.CALL_S)
    there = [dict(row.items()) for row in asked.list_rows(found)]
    ours = profiles.rows(used)
    # A newer job's table may have columns that this one does not know.
    known = [{column: row[column] for column in EQUIPMENT_PROFILE.names} for row in there]
    if all(row in known for row in ours):
        return
    names = {row["profile"] for row in ours}
    rows = [row for row in there if row["profile"] not in names] + ours
    # One load job replaces the rows at once, so that nobody sees none or some of them.
    config = bigquery.LoadJobConfig(
        schema=found.schema,
        source_format=bigquery.SourceFormat.NEWLINE_DELIMITED_JSON,
        write_disposition=bigquery.WriteDisposition.WRITE_TRUNCATE,
    )
    asked.load_table_from_json(rows, found, job_config=config, location=found.location).result()
