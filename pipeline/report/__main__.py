"""python -m pipeline.report: prints the table of cells and writes the HTML report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pipeline import failures
from pipeline.errors import ConfigError
from pipeline.report import page, tables
from pipeline.report.marts import Marts
from pipeline.shown import say


class _Flags(argparse.ArgumentParser):
    """A parser that raises instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(
            f"{message}; the flags are --warehouse=duckdb:PATH (or md:DATABASE) and --out=FILE"
        )


def write(out: Path, text: str) -> None:
    """Writes the page; makes its folder.

    Raises:
        ConfigError: nothing can be written there.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--out={out}: can't be written ({error.strerror}); give the path of a file such as "
            "data/report.html"
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 2 for a wrong flag, warehouse or path."""
    parser = _Flags(prog="python -m pipeline.report", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--warehouse",
        default="duckdb:data/warehouse.duckdb",
        help="duckdb:PATH or md:DATABASE, with the models built; default: %(default)s",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("data/report.html"),
        help="the HTML file to write; default: %(default)s",
    )
    failures.add_flag(parser)
    argv = sys.argv[1:] if argv is None else argv
    failures.begin(argv)
    try:
        flags = parser.parse_args(argv)
        with Marts.open(flags.warehouse) as marts:
            overview = marts.overview()
            write(flags.out, page.render(marts, overview))
    except Exception as error:  # noqa: BLE001 - each ends in one line
        return failures.ended(error, argv)
    say(*tables.terminal(overview))
    size = flags.out.stat().st_size / 1e6
    say(f"report: {flags.out} ({size:.1f} MB, opens without a network)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
