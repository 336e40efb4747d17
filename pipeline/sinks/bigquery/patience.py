"""How long an outage of BigQuery is waited out."""

from __future__ import annotations

from pipeline.sinks.base.outage import Outage
from pipeline.sinks.bigquery.address import Address
from schemas.reading import Table

# Longer than the minutes for which BigQuery asks to retry; after that somebody should look.
PATIENCE_S = 600.0
_LONGEST_PAUSE_S = 30.0
_ADVICE = "see BigQuery's status and the project's quotas"


def outage_of(address: Address, table: Table) -> Outage:
    """The outage of a table, which is none so far."""
    told = f"{address.told}, table {table.name}"
    return Outage(told, PATIENCE_S, _LONGEST_PAUSE_S, _ADVICE)
