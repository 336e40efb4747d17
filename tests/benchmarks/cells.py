"""python -m tests.benchmarks.cells: what the models say of synthetic cells, against the truth.

Cells are drawn over protocol, chemistry, sampling, noise, temperature and what their messages lack
(`cell_draws`), go through job and models in groups, and are compared with the truth of the
simulation (`cell_scores`). The worst are printed with the URI that repeats them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline import __main__ as job
from pipeline import models
from tests.benchmarks.cell_draws import Cell, draw
from tests.benchmarks.cell_scores import MODELS, Figure, Models, Scores, compare

# Name, and the least share that is to be right. What is aimed at is all of them; what is left are
# integrals without counters (capacity, throughput, charges) and chance, where noise is all there is.
WANTED = {
    "capacity": 0.999,
    "recall": 0.95,
    "kind": None,
    "equivalent full cycles": 0.99,
    "equivalent full cycles, by their error": 1.0,
    "resistance 10 s": None,
    "resistance 30 s": None,
    "resistance 30 s, corrected": 0.97,
    "mean temperature": 0.999,
    "full swing": 0.98,
    "peak is one": 0.98,
    "peak voltage": 0.98,
    "peak height": 0.98,
    "other peak, by its errors": None,
    "main peak found": None,
}
_SHORT = {
    "capacity": "cap",
    "recall": "recall",
    "kind": "kind",
    "equivalent full cycles": "EFC",
    "equivalent full cycles, by their error": "EFC said",
    "resistance 10 s": "R10",
    "resistance 30 s": "R30",
    "resistance 30 s, corrected": "R30c",
    "mean temperature": "T",
    "full swing": "swing",
    "peak is one": "peak",
    "peak voltage": "peak V",
    "peak height": "peak h",
    "other peak, by its errors": "peak other",
    "main peak found": "found",
}


def run(
    cells: list[Cell], group: int, folder: Path, note: Callable[[str], None] = lambda _: None
) -> Scores:
    """Runs job and models on the cells, a group at a time, and compares.

    Args:
        cells: the drawn cells.
        group: how many go through together.
        folder: for the messages and the warehouse of a group; emptied after each.
        note: is called with a line for each group.
    """
    scores = Scores()
    for low in range(0, len(cells), group):
        part = cells[low : low + group]
        started = time.perf_counter()
        messages, warehouse = folder / "cells.ndjson", folder / "warehouse.duckdb"
        count = sum(cell.write(messages) for cell in part)
        written = time.perf_counter()
        _read(messages, warehouse)
        read = time.perf_counter()
        _model(warehouse)
        modelled = time.perf_counter()
        given = Models(warehouse)
        for cell in part:
            compare(cell, cell.true(), given, scores)
        note(
            f"cells {low} to {low + len(part) - 1}: {count:,} readings; simulated in "
            f"{written - started:.0f} s, job {read - written:.0f} s, models "
            f"{modelled - read:.0f} s, compared in {time.perf_counter() - modelled:.0f} s"
        )
        for path in folder.iterdir():
            path.unlink()
    return scores


def _read(messages: Path, warehouse: Path) -> None:
    said = io.StringIO()
    flags = ["--runner=DirectRunner", f"--source={messages}", "--lake=none", "--no_progress",
             f"--warehouse=duckdb:{warehouse}"]  # fmt: skip
    with contextlib.redirect_stdout(said):
        status = job.main(flags)
    if status:
        raise SystemExit(f"the job failed:\n{said.getvalue()}")


def _model(warehouse: Path) -> None:
    """Only what is compared and what that needs, without the tests of the data."""
    select = " ".join(f"+{model}" for model in MODELS)
    success, _ = models.build(f"duckdb:{warehouse}", select, data_tests=False)
    if not success:
        raise SystemExit("the models failed; see above")


def table(scores: Scores, cells: list[Cell], trait: str) -> Iterable[str]:
    """A line for each value of a trait: cells, and of each figure the share that is right."""
    groups: dict[str, list[int]] = defaultdict(list)
    for cell in cells:
        groups[cell.traits[trait]].append(cell.number)
    names = [name for name in WANTED if scores.of(name)]
    by_cell: dict[tuple[str, int], list[bool]] = defaultdict(list)
    for figure in scores.figures:
        by_cell[figure.name, figure.cell].append(figure.right)
    yield f"{trait:<26} {'cells':>5} " + " ".join(f"{_SHORT[name]:>12}" for name in names)
    for value, numbers in [*sorted(groups.items()), ("all", [c.number for c in cells])]:
        shown = []
        for name in names:
            right = [one for number in numbers for one in by_cell[name, number]]
            shown.append(f"{sum(right) / len(right):.1%}/{len(right)}" if right else "-")
        yield f"{value:<26} {len(numbers):>5} " + " ".join(f"{text:>12}" for text in shown)


def confusion(scores: Scores) -> Iterable[str]:
    """The kinds that cycles have, down, and those that the models give, across."""
    if not scores.kinds:
        yield "kinds: not available"
        return
    given = sorted({kind for _, kind in scores.kinds})
    yield f"{'true kind':<18}" + "".join(f"{kind:>18}" for kind in given)
    for true in sorted({kind for kind, _ in scores.kinds}):
        yield f"{true:<18}" + "".join(f"{scores.kinds[true, kind]:>18}" for kind in given)


def worst(scores: Scores, cells: list[Cell], seed: int, most: int) -> Iterable[str]:
    """Of each figure the cells that are most often and farthest off, and how to repeat them."""
    known = {cell.number: cell for cell in cells}
    for name in WANTED:
        wrong: dict[int, list[Figure]] = defaultdict(list)
        for figure in scores.of(name):
            if not figure.right:
                wrong[figure.cell].append(figure)
        if not wrong:
            continue
        yield f"{name}: {sum(map(len, wrong.values()))} wrong, of {len(wrong)} cells"
        order = sorted(wrong.items(), key=lambda item: (-len(item[1]), item[0]))
        for number, figures in order[:most]:
            far = max(figures, key=lambda figure: figure.error)
            place = "" if far.cycle is None else f" cycle {far.cycle}"
            yield (
                f"  seed {seed} cell {number} ({known[number].equipment_id}){place}: "
                f"{_shown(far.found)} for {_shown(far.true)}, {len(figures)} wrong; "
                f"{far.note + '; ' if far.note else ''}{known[number].uri}"
            )


def _shown(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.5g}"


def failed(scores: Scores) -> list[str]:
    """What is not as wanted, a line each."""
    out = []
    for name, least in WANTED.items():
        share = scores.share(name)
        if least is not None and share is not None and share < least:
            out.append(f"{name}: {share:.2%} right, wanted {least:.0%}")
    return out


def main() -> int:
    """Prints tables by trait, the confusion of kinds and the worst; 1 where a limit is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cells", description=__doc__)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--group", type=int, default=200, help="cells that run together")
    parser.add_argument("--worst", type=int, default=5, help="cells named for each figure")
    parser.add_argument("--only", type=int, nargs="*", help="only the cells with these numbers")
    flags = parser.parse_args()
    numbers = flags.only or range(flags.cells)
    cells = [draw(flags.seed, number) for number in numbers]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        scores = run(cells, flags.group, Path(folder), lambda line: print(line, flush=True))
    print(f"{len(cells)} cells in {time.perf_counter() - started:.0f} s; share right / compared")
    for trait in cells[0].traits:
        print("\n" + "\n".join(table(scores, cells, trait)))
    print("\n" + "\n".join(confusion(scores)))
    print("\n" + "\n".join(worst(scores, cells, flags.seed, flags.worst)))
    if scores.missing:
        print("\nnot available: " + ", ".join(sorted(scores.missing)))
    missed = failed(scores)
    print("\n" + "\n".join(missed or ["all within the limits"]))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
