"""python -m pipeline.models: builds and tests the dbt models on a warehouse."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.errors import ConfigError

PROJECT = Path(__file__).resolve().parent.parent / "dbt_project"


def environment(warehouse: str) -> dict[str, str]:
    """The variables that point dbt's profile at `warehouse`.

    Raises:
        ConfigError: no dbt target serves such a warehouse, or it is not there.
    """
    kind, _, place = warehouse.partition(":")
    if kind != "duckdb" or not place:
        raise ConfigError(
            f"--warehouse={warehouse}: the models are built on duckdb:PATH, such as "
            "duckdb:data/warehouse.duckdb"
        )
    path = Path(place)
    if not path.is_file():
        raise ConfigError(
            f"--warehouse={warehouse}: there is no such file; run python -m pipeline first"
        )
    return {"DBT_TARGET": "duckdb", "DUCKDB_PATH": str(path.resolve())}


def build(warehouse: str, select: str | None = None) -> tuple[bool, Counter[str]]:
    """Builds and tests all models, or those that dbt's `select` names.

    Returns:
        whether everything succeeded, and how many nodes ended with which status.
    """
    # Imported here: dbt takes seconds to load, and a wrong flag should be told at once.
    from dbt.cli.main import dbtRunner

    os.environ.update(environment(warehouse), DO_NOT_TRACK="1")
    bar = tqdm(desc="models", unit="node", disable=None, leave=False)

    def follow(event: Any) -> None:
        if event.info.name == "ConcurrencyLine":
            bar.total = event.data.node_count
            bar.refresh()
        elif event.info.name == "NodeFinished":
            bar.update(1)

    arguments = ["build", "--quiet", "--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT)]
    if select:
        arguments += ["--select", select]
    try:
        outcome = dbtRunner(callbacks=[follow]).invoke(arguments)
    finally:
        bar.close()
    if outcome.exception is not None:
        raise outcome.exception
    counts = Counter(str(node.status) for node in getattr(outcome.result, "results", ()))
    return bool(outcome.success), counts


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 1 if a model or test failed, 2 for a wrong flag."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.models", description=__doc__)
    parser.add_argument("--warehouse", default="duckdb:data/warehouse.duckdb")
    parser.add_argument("--select", help="build only these, in dbt's own notation")
    flags = parser.parse_args(argv)
    started = time.monotonic()
    try:
        success, counts = build(flags.warehouse, flags.select)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    print(f"models: {told}; {time.monotonic() - started:.1f} s")  # noqa: T201
    return 0 if success else 1


if __name__ == "__main__":
    sys.exit(main())
