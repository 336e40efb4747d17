"""Tells whether a table can't be written for good, and then what to do; asks the table itself."""

from __future__ import annotations

import grpc
from google.api_core import exceptions

from pipeline.errors import WarehouseFailed
from pipeline.sinks.bigquery import client, tables
from pipeline.sinks.bigquery.address import Address
from pipeline.sinks.bigquery.answers import Answer
from schemas.reading import Table


def raise_lasting(address: Address, table: Table, answer: Answer) -> None:
    """Returns if the request may succeed later.

    Raises:
        WarehouseFailed: it won't, whatever the rows; they must not become dead letters.
    """
    if answer.retryable:
        return
    if answer.code is grpc.StatusCode.NOT_FOUND or answer.unknown_columns:
        # The Write API learns of a new table or column minutes after it was made.
        raise_unfit(address, table)
        return
    told = f"{address.told}, table {table.name}"
    if answer.code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
        raise WarehouseFailed(
            f"{told}: it is not there, or this account may not write to it ({answer}); grant the "
            "account roles/bigquery.dataEditor on the dataset and run the job again"
        )
    raise WarehouseFailed(
        f"{told}: BigQuery does not take what the job sends ({answer}); mend the table and run "
        "the job again: it checks the tables when it starts"
    )


def raise_unfit(address: Address, table: Table) -> None:
    """Asks whether the table is there and has all columns; returns if so, or if nobody answers.

    Raises:
        WarehouseFailed: it is not, or has not.
    """
    told = f"{address.told}, table {table.name}"
    try:
        found = client.rest(address).get_table(
            address.table(table.name), retry=client.ONCE, timeout=tables.CALL_S
        )
    except exceptions.NotFound as error:
        raise WarehouseFailed(
            f"{told}: it is not there any more; run the job again: it makes the table, and goes "
            "on where it was"
        ) from error
    except (exceptions.GoogleAPICallError, OSError):
        return
    missing = tables.lacking(table, found)
    if missing:
        raise WarehouseFailed(
            f"{told}: it lacks {', '.join(missing)} by now; run the job again: it adds columns"
        )
