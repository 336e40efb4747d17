"""python -m pipeline.truth: writes what is true of a simulated fleet, to compare results with."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pyarrow.parquet as pq

from pipeline import failures
from pipeline.errors import ConfigError
from pipeline.shown import address, say
from pipeline.sources.simulation import truth
from pipeline.sources.simulation.source import SCHEME, SimulatorSource


def write(source: str, out: Path) -> dict[str, int]:
    """Writes the tables of `pipeline.sources.simulation.truth`, one Parquet file each.

    Args:
        source: the simulator's URI, as given to the job.
        out: the folder; files that are there are replaced.

    Returns:
        The rows of each table by its name.

    Raises:
        ConfigError: not a simulator, a wrong parameter, or a folder that cannot be written.
    """
    if not source.startswith(SCHEME):
        raise ConfigError(
            f"--source={address(source)}: only of simulated cells is the truth known; give simulator:?…"
        )
    found = truth.of(SimulatorSource(source).config)
    rows = {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for field in fields(found):
            table = getattr(found, field.name)
            pq.write_table(table, out / f"{field.name}.parquet")
            rows[field.name] = table.num_rows
    except OSError as error:
        raise ConfigError(
            f"--out={out}: cannot be written ({error.strerror}); give a folder you may write to"
        ) from error
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 2 for a wrong flag."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.truth",
        description="Writes what is true of a simulated fleet's cells, for the same URI as the "
        "job's: cells, cycles, swings and the peaks of dQ/dV, a Parquet file each.",
        allow_abbrev=False,
    )
    parser.add_argument("--source", default="simulator:", help="as the job's; default: simulator:")
    parser.add_argument(
        "--out", default="data/truth", help="the folder to write to; default: %(default)s"
    )
    failures.add_flag(parser)
    argv = sys.argv[1:] if argv is None else argv
    failures.begin(argv)
    given = parser.parse_args(argv)
    try:
        rows = write(given.source, Path(given.out))
    except Exception as error:  # noqa: BLE001 - each ends in one line
        return failures.ended(error, argv)
    for name, count in rows.items():
        say(f"{Path(given.out) / name}.parquet: {count:,} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
