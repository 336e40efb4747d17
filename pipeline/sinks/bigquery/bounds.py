"""Rows of days that BigQuery does not stream to: too long ago, or too far ahead.

Streaming takes partitions from some years in the past to about one year in the future; load jobs
take any. BigQuery may refuse the whole request for one such row, without naming it.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pyarrow as pa

from pipeline.clock import now_us
from pipeline.sinks.bigquery.answers import Answer
from schemas.reading import Table

_DAY_US = 86_400_000_000
_BOUNDS = re.compile(
    r"outside the allowed bounds.{0,300}?(?<!\d)(\d+) days in the past and (\d+) days in the fut"
)
_FIX = "--bigquery_method=file_loads takes any day"


def named(table: Table, rows: pa.RecordBatch, answer: Answer) -> Answer:
    """The answer, with the rows named that are out of bounds, if that is why it is no.

    Args:
        table: what the rows are of.
        rows: the request's.
        answer: BigQuery's.
    """
    found = _BOUNDS.search(answer.message)
    if answer.refused:
        told = {
            row: f"{why}; {_FIX}" if _BOUNDS.search(why) else why
            for row, why in answer.refused.items()
        }
        return replace(answer, refused=told)
    if found is None or table.partition is None:
        return answer
    past, future = (int(days) * _DAY_US for days in found.groups())
    at_us = now_us()
    times = rows.column(table.partition).cast(pa.int64()).to_numpy(zero_copy_only=False)
    outside = np.flatnonzero((times < at_us - past) | (times > at_us + future))
    why = f"{answer.message}; {_FIX}"
    return replace(answer, refused={int(row): why for row in outside} or None)
