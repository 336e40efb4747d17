"""python -m pipeline.predict: predicts the life of cells from their first hundred cycles."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import durable, failures
from pipeline.errors import ConfigError, not_written
from pipeline.flags import CommandFlags
from pipeline.shown import address, say

_SHOWN = 10


def _parser() -> CommandFlags:
    parser = CommandFlags(
        prog="python -m pipeline.predict",
        description="Predicts the life of cells, with 90 % intervals, from the discharge curves "
        "and capacities of their first hundred cycles; nothing else is read. A cell unlike those "
        "the model was trained on gets no figure but the reasons.",
        epilog="Example: python -m pipeline.predict --model=data/early_life.onnx "
        "--curves=data/new_cells --out=data/lives.parquet",
        allow_abbrev=False,
    )
    failures.add_flag(parser)
    add = parser.add_argument
    add("--model", metavar="FILE.onnx",
        help="a model that python -m pipeline.train wrote: a file, gs://BUCKET/NAME or "
        "s3://BUCKET/NAME; default: the one that ships with this package, for LFP/graphite cells "
        "of 1.1 Ah")  # fmt: skip
    add("--curves", metavar="FOLDER",
        help="a folder with discharge_curves.parquet (cell, cycle, discharge_ah) and cells.parquet "
        "(cell, capacity_ah_cycles_2_to_100), as python -m pipeline.train --help says")  # fmt: skip
    add("--split", metavar="NAME", help="only the cells of this split; default: all cells")
    add("--out", metavar="FILE.parquet",
        help="a row for each cell: cell, life_cycles, low, high, out_of_domain, reasons")  # fmt: skip
    return parser


def _predict(argv: Sequence[str]) -> None:
    given = _parser().known(argv)
    for name, what in (("curves", "a folder with discharge curves"), ("out", "a Parquet file")):
        if not getattr(given, name):
            raise ConfigError(f"--{name}: must be given: {what}; see --help")
    if "://" in given.out:
        raise ConfigError(
            f"--out={address(given.out)}: must be a file of this machine; write it here, then copy"
        )
    out = Path(given.out)
    if out.is_dir():
        raise ConfigError(
            f"--out={out}: is a folder; give a file in it, such as {out}/lives.parquet"
        )
    from pipeline.prediction import curves, early_life
    from pipeline.prediction.model_file import Model
    from transforms.prediction.early_life import FEATURES

    model = Model.load(given.model or early_life.SHIPPED, early_life.KIND, list(FEATURES))
    folder = curves.read(given.curves, given.split, lives=False)
    table = early_life.predict(model, folder.cells, folder.curves)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        durable.replace(out, [sink.getvalue()])
    except OSError as error:
        raise ConfigError(not_written("--out", out, error)) from error
    _report(model.card["name"], model.version, table, out)


def _report(name: str, version: str, table: pa.Table, out: Path) -> None:
    outside = table.filter(table["out_of_domain"])
    say(
        f"predicted {table.num_rows - outside.num_rows:,} of {table.num_rows:,} cells with "
        f"{name} {version}: {out}"
    )
    if outside.num_rows:
        say(f"{outside.num_rows:,} cells are unlike those the model was trained on:")
    for row in outside.slice(0, _SHOWN).to_pylist():
        say(f"  {row['cell']}: {'; '.join(row['reasons'])}")
    if outside.num_rows > _SHOWN:
        say(f"  … and {outside.num_rows - _SHOWN:,} more; column reasons has them all")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0, 2 for what a flag can fix, 130 if interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    failures.begin(argv)
    try:
        _predict(argv)
    except KeyboardInterrupt:
        say("interrupted; nothing was written", error=True)
        return 130
    except Exception as error:  # noqa: BLE001 - each ends in one line
        return failures.ended(error, argv)
    return 0


if __name__ == "__main__":
    sys.exit(main())
