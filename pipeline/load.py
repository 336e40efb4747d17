"""python -m pipeline.load: loads a lake's files into BigQuery, each once; for schedulers and by hand."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pipeline import failures
from pipeline.shown import say
from pipeline.sinks.bigquery import Address, file_loads, preflight, tables


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 1 if files could not be loaded, 2 for a wrong flag."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.load",
        description="Loads the Parquet files of a lake that are not in BigQuery yet.",
        epilog="It may run beside a job that loads, and be killed: every file is loaded once.",
        allow_abbrev=False,
    )
    parser.add_argument("--lake", required=True, help="gs://BUCKET/PREFIX")
    parser.add_argument("--warehouse", required=True, help="bigquery://PROJECT/DATASET")
    failures.add_flag(parser)
    argv = sys.argv[1:] if argv is None else argv
    failures.begin(argv)
    flags = parser.parse_args(argv)
    try:
        return _load(flags.lake, Address.parse(flags.warehouse))
    except Exception as error:  # noqa: BLE001 - each ends in one line
        return failures.ended(error, argv)


def _load(lake: str, address: Address) -> int:
    store = file_loads.lake_in_cloud(lake)
    store.check()
    found = preflight.look(address, lambda place: file_loads.check_location(address, store, place))
    preflight.ask(address, preflight.MAKE_S, lambda: tables.make(address, found))
    done = file_loads.load_new(lake, address)
    say(f"loaded {done.files:,} files with {done.rows:,} rows into {address}")
    for path, reason in done.failed.items():
        say(f"error: {path} is set aside: {reason}", error=True)
    return 1 if done.failed else 0


if __name__ == "__main__":
    sys.exit(main())
