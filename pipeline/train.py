"""python -m pipeline.train: learns a model of life from cells whose life is known, as one file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import failures
from pipeline.errors import ConfigError, not_written
from pipeline.flags import CommandFlags
from pipeline.shown import address, say
from pipeline.training import flags

if TYPE_CHECKING:
    import onnx

    from pipeline.prediction.model_file import Card


def _parser() -> CommandFlags:
    parser = CommandFlags(
        prog="python -m pipeline.train",
        description="Learns a model from cells whose life is known and writes it as one ONNX file, "
        "with a card that says what it was trained on, how wrong it is and where it may be used.",
        epilog="Example: python -m pipeline.train --curves=data/matr --split=train "
        "--out=data/early_life.onnx",
        allow_abbrev=False,
    )
    failures.add_flag(parser)
    add = parser.add_argument
    add("--curves", metavar="FOLDER",
        help="early-life model: a folder with discharge_curves.parquet (cell, cycle, discharge_ah: "
        "Ah at 1,000 voltages from 3.5 V down to 2.0 V; cycles 2, 20, 30, 60 and 100 are needed) "
        "and cells.parquet (cell, life_cycles, capacity_ah_cycles_2_to_100: 99 values)")  # fmt: skip
    add("--split", metavar="NAME",
        help="only the cells that cells.parquet has in this split; default: all cells")  # fmt: skip
    add("--out", metavar="FILE.onnx",
        help="the model's file; FILE.onnx.card.md, its card for a person, is written too")  # fmt: skip
    add("--origin", metavar="TEXT",
        help="where the cells come from and how to cite them, for the card; default: the first "
        "paragraph of the folder's ORIGIN.md")  # fmt: skip
    flags.add_flags(parser)
    return parser


def _out(given: argparse.Namespace) -> Path:
    """Where the model goes; ConfigError where no file can be."""
    if not given.out:
        raise ConfigError("--out: must be given: the model's file, such as --out=early_life.onnx")
    if "://" in given.out:
        raise ConfigError(
            f"--out={address(given.out)}: must be a file of this machine; write it here, then copy"
        )
    path = Path(given.out)
    if path.is_dir():
        raise ConfigError(
            f"--out={path}: is a folder; give a file in it, such as {path}/early_life.onnx"
        )
    return path


def _from_curves(given: argparse.Namespace) -> tuple[onnx.ModelProto, Card]:
    """The early-life model of a folder of discharge curves."""
    from pipeline.prediction import curves, early_life

    folder = curves.read(given.curves, given.split, lives=True)
    return early_life.train(folder, given.split, given.origin or curves.origin(given.curves))


def _from_lives(given: argparse.Namespace) -> tuple[onnx.ModelProto, Card]:
    """The remaining-life model of cells whose whole life is known."""
    from pipeline.training import remaining_life

    return remaining_life.train(given)


def _train(argv: Sequence[str]) -> None:
    given = _parser().known(argv)
    out = _out(given)
    whole_lives = given.warehouse is not None or given.simulate is not None
    if bool(given.curves) == whole_lives:
        raise ConfigError(
            "--curves: give a folder with discharge curves for an early-life model, or --simulate=N "
            "and --warehouse=URI for one of the remaining life; see --help"
        )
    graph, card = _from_lives(given) if whole_lives else _from_curves(given)
    from pipeline.prediction import model_file

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        card = model_file.write(out, graph, card)
    except OSError as error:
        raise ConfigError(not_written("--out", out, error)) from error
    if whole_lives:
        from pipeline.training import remaining_life

        for line in (f"{card['name']} {card['version']}: {out}", *remaining_life.told(card)):
            say(line)
    else:
        _report(out, card)


def _report(out: Path, card: Card) -> None:
    say(f"{card['name']} {card['version']}: {card['training']['count']} cells, {out}")
    for name, error in card["error"].items():
        say(
            f"  {name}: RMSE {error['rmse_cycles']:.1f} cycles, "
            f"mean error {error['mape_percent']:.1f} %"
        )
    held = card["coverage"]
    say(
        f"  {held['share']:.0%} intervals: half as wide as "
        f"{held['median_half_width_percent']:.0f} % of the life, held "
        f"{held['measured_cross_validated']:.0%} of the lives in cross-validation"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0, 2 for what a flag can fix, 130 if interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    failures.begin(argv)
    try:
        _train(argv)
    except KeyboardInterrupt:
        say("interrupted; no model was written", error=True)
        return 130
    except Exception as error:  # noqa: BLE001 - each ends in one line
        return failures.ended(error, argv)
    return 0


if __name__ == "__main__":
    sys.exit(main())
