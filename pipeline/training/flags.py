"""Flags of training from whole lives; apart, so that --help does not load what learns."""

from __future__ import annotations

import argparse


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of training this model, beside `--out`."""
    add = parser.add_argument
    add("--warehouse", metavar="URI",
        help="remaining-life model: learn from the cells of this warehouse, such as "
        "duckdb:data/warehouse.duckdb; it is only read, and needs the models (pipeline.models)")  # fmt: skip
    add("--simulate", type=int, metavar="N",
        help="remaining-life model: learn from N synthetic cells, alone or in addition")  # fmt: skip
    add("--seed", type=int, default=1, metavar="N",
        help="another seed draws other synthetic cells and splits them otherwise; default: 1")  # fmt: skip
