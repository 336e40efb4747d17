"""python -m tests.fuzz: exports with known truth through the job; nothing may be silently wrong."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.fuzz.brands import BRANDS
from tests.fuzz.generate import exports, one
from tests.fuzz.judge import CLASSES, Verdict
from tests.fuzz.running import Outcome, run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--exports", type=int, default=500, help="how many; default: 500")
    parser.add_argument("--seed", type=int, default=1, help="of all choices; default: 1")
    parser.add_argument("--brand", action="append", choices=list(BRANDS), help="only these")
    parser.add_argument("--only", action="append", metavar="ID", help="only this one (FZ00042)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave files and tables there")
    parser.add_argument("--show", choices=CLASSES, action="append", help="list these classes too")
    return parser


def table(verdicts: list[Verdict]) -> str:
    """Brand by class, with the sums; at last how many of the right ones are in doubt all the same."""
    counts = Counter((verdict.export.brand, verdict.kind) for verdict in verdicts)
    brands = sorted({verdict.export.brand for verdict in verdicts})
    doubted = Counter(v.export.brand for v in verdicts if v.kind == "right" and v.told)
    titles = (*CLASSES, "right, doubted")
    lines = [f"{'brand':<16}{'exports':>9}" + "".join(f"{title:>16}" for title in titles)]
    for brand in [*brands, "all"]:
        of = [brand] if brand != "all" else brands
        row = [sum(counts[name, kind] for name in of) for kind in CLASSES]
        cells = (*row, sum(doubted[name] for name in of))
        lines.append(f"{brand:<16}{sum(row):>9}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def described(verdict: Verdict, seed: int) -> str:
    """What is wrong with an export's figures, how it was made, and how to make it again."""
    export = verdict.export
    recipe = ", ".join(f"{name}={value}" for name, value in export.recipe.items())
    lines = [f"{export.name} {export.brand}: {verdict.kind}", *verdict.problems]
    lines += [f"says: {word}" for word in verdict.told]
    lines += [f"recipe: {recipe}"]
    lines += [f"again: python -m tests.fuzz --seed={seed} --only={export.name} --keep=FOLDER"]
    return "\n    ".join(lines)


def _show(outcome: Outcome, flags: argparse.Namespace) -> int:
    shown = {"silently wrong", *(flags.show or ())}
    for verdict in outcome.verdicts:
        if verdict.kind in shown:
            print(described(verdict, flags.seed))
    print()
    print(table(outcome.verdicts))
    write, job, models, judge = outcome.seconds
    print(f"\nwriting {write:.0f} s, job {job:.0f} s, models {models:.0f} s, judging {judge:.0f} s")
    if outcome.hides_refusals:
        print("files gave nothing, and the job ended with exit status 0")
    return 1 if outcome.silent or outcome.hides_refusals else 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status: 1 if anything is silently wrong."""
    flags = _parser().parse_args(arguments)
    if flags.only:
        wanted = [one(flags.seed, int(name.removeprefix("FZ"))) for name in flags.only]
    else:
        wanted = [
            export
            for export in exports(flags.seed, flags.exports)
            if not flags.brand or export.brand in flags.brand
        ]
    if flags.keep:
        flags.keep.mkdir(parents=True, exist_ok=True)
        if any(flags.keep.iterdir()):
            print(f"--keep={flags.keep} is not empty", file=sys.stderr)
            return 2
        return _show(run(wanted, flags.keep), flags)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        return _show(run(wanted, Path(folder)), flags)


if __name__ == "__main__":
    sys.exit(main())
