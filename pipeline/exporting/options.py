"""Turns the exporter's command line into one frozen, validated Export."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pipeline import failures
from pipeline.errors import ConfigError
from pipeline.shown import address

CSV, PARQUET = "csv", "parquet"
PREFERRED, MACHINE = "preferred", "machine"

_DEFAULT = "duckdb:data/warehouse.duckdb"
_INSTITUTION = re.compile(r"[A-Za-z0-9]+(?:[-_][A-Za-z0-9]+)*")


@dataclass(frozen=True)
class Export:
    """What is to be exported, checked as far as that goes without touching anything.

    Attributes:
        warehouse: the warehouse's URI, or None where a lake is read.
        lake: the lake's URI, or None.
        kind: CSV or PARQUET.
        out: the folder for the files.
        equipment_ids: patterns of cells to take; none takes all.
        tests: patterns of test ids to take; none takes all.
        machine_names: whether headers are the terms' machine-readable names, not their labels.
        institution: first part of the files' names, or None.
        overwrite: whether files that are there may be replaced.
        progress: whether to show a bar.
    """

    warehouse: str | None
    lake: str | None
    kind: str
    out: Path
    equipment_ids: tuple[str, ...]
    tests: tuple[str, ...]
    machine_names: bool
    institution: str | None
    overwrite: bool
    progress: bool

    @property
    def source(self) -> str:
        """The flag that says where the readings are."""
        return f"--lake={self.lake}" if self.lake else f"--warehouse={self.warehouse}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message.removeprefix('argument ')}; see --help")


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m pipeline.export",
        description="Writes the readings of cells in an open format: the Battery Data Format 1.3, "
        "a file per test, with a metadata file next to each.",
        allow_abbrev=False,
    )
    failures.add_flag(parser)
    add = parser.add_argument
    add("--warehouse", help="duckdb:PATH, md:DATABASE or bigquery://PROJECT/DATASET; default: "
        + _DEFAULT)  # fmt: skip
    add("--lake", help="a lake instead of a warehouse: PATH, gs://BUCKET/PREFIX or "
        "s3://BUCKET/PREFIX")  # fmt: skip
    add("--format", choices=["bdf"], default="bdf", help="default: %(default)s")
    add("--as", dest="kind", choices=[CSV, PARQUET], default=CSV, help="default: %(default)s")
    add("--out", default="data/bdf", help="the folder to write to; default: %(default)s")
    add("--equipment_id", action="append", default=[], metavar="PATTERN",
        help="only these cells, such as CS2_35 or 'CS2_*'; may be repeated")  # fmt: skip
    add("--test", action="append", default=[], metavar="PATTERN",
        help="only tests with these ids, such as 'CS2_35@2010-*'; may be repeated")  # fmt: skip
    add("--labels", choices=[PREFERRED, MACHINE], default=PREFERRED,
        help="headers: preferred labels (Voltage / V) or machine-readable names (voltage_volt); "
        "default: %(default)s")  # fmt: skip
    add("--institution", metavar="CODE", help="first part of the files' names, such as UCam")
    add("--overwrite", action="store_true", help="replace files that already exist")
    add("--no_progress", action="store_true", help="show no progress bar")
    return parser


def export(argv: Sequence[str]) -> Export:
    """The export that the flags ask for.

    Raises:
        ConfigError: a flag nobody knows, or a value that can't be used.
    """
    given, unknown = _parser().parse_known_args(list(argv))
    if unknown:
        raise ConfigError(f"{unknown[0].split('=')[0]}: unknown flag; see --help")
    if given.lake is not None and given.warehouse is not None:
        raise ConfigError("--lake and --warehouse can't stand together; drop one")
    for name in ("lake", "out"):
        if getattr(given, name) == "":
            raise ConfigError(f"--{name}=: must not be empty; give a folder or drop it")
    if "://" in given.out:
        raise ConfigError(
            f"--out={address(given.out)}: must be a folder of this machine; export there, then copy"
        )
    if given.institution is not None and not _INSTITUTION.fullmatch(given.institution):
        raise ConfigError(
            f"--institution={given.institution}: must be letters and digits, such as UCam"
        )
    return Export(
        warehouse=None if given.lake else given.warehouse or _DEFAULT,
        lake=given.lake,
        kind=given.kind,
        out=Path(given.out),
        equipment_ids=tuple(given.equipment_id),
        tests=tuple(given.test),
        machine_names=given.labels == MACHINE,
        institution=given.institution,
        overwrite=given.overwrite,
        progress=not given.no_progress,
    )
