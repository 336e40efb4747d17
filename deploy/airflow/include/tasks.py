"""What all tasks have in common: how they are tried again, and who hears of a failure."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from include import alerts


def defaults(timeout: timedelta) -> dict[str, Any]:
    """A DAG's `default_args`; no try of a task may take longer than `timeout`."""
    return {
        "owner": "battery",
        "retries": 2,
        "retry_delay": timedelta(minutes=1),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=15),
        "execution_timeout": timeout,
        "on_failure_callback": alerts.on_failure,
    }
