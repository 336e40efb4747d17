"""python -m tests.fuzz.doors: changed inputs through every door; none may break one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz.doors import worker
from tests.fuzz.doors.doors import DOORS
from tests.fuzz.doors.worker import Figures, distinct, fuzz, input_of


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.doors", description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="of all doors; default: 10000")
    parser.add_argument("--seed", type=int, default=1, help="of all choices; default: 1")
    parser.add_argument("--door", action="append", choices=list(DOORS), help="only these")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="only this input of one door")
    parser.add_argument(
        "--keep", type=Path, default=Path("data/fuzz"), metavar="FOLDER",
        help="where inputs that break a door are written; default: data/fuzz",
    )  # fmt: skip
    parser.add_argument(
        "--guided", action="store_true",
        help="let atheris choose the inputs of one --door, by what code they reach (pip install "
        "atheris); runs until it is stopped or a door breaks",
    )  # fmt: skip
    return parser


_TITLES = ("inputs", "read", "refused", "nothing", "crashes", "hangs", "memory", "peak MiB",
           "slowest s")  # fmt: skip
HEAD = f"{'door':<12}" + "".join(f"{title:>11}" for title in _TITLES)


def row(name: str, found: Figures) -> str:
    """A door with what came of its inputs; see HEAD."""
    cells = [found.inputs, found.read, found.refused, found.nothing, found.of("crash", "killed"),
             found.of("hang"), found.of("memory"), found.peak >> 20]  # fmt: skip
    return f"{name:<12}" + "".join(f"{c:>11,}" for c in cells) + f"{found.slowest:>11.2f}"


def kept(figures: Figures, seed: int, folder: Path) -> list[str]:
    """Writes one input of each fault, and says what it was and how to try it again."""
    said = []
    for broken, count in distinct(figures.broken):
        door = DOORS[broken.door]
        data = input_of(door, door.inputs(), seed, broken.index)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{broken.door}-{seed}-{broken.index}"
        path.write_bytes(data)
        said.append(
            f"{broken.door}: {broken.kind} x {count}: {broken.message}\n    {path} ({len(data):,} "
            f"bytes); again: --door={broken.door} --seed={seed} --only={broken.index}"
        )
    return said


def main(argv: list[str] | None = None) -> int:
    """1 if a door broke, else 0."""
    flags = _parser().parse_args(argv)
    names = flags.door or list(DOORS)
    if flags.guided:
        from tests.fuzz.doors.guided import guide

        return guide(DOORS[names[0]])
    said: list[str] = []
    print(HEAD)
    each = max(flags.inputs // len(names), 1)
    for name in names:
        first, count = (0, each) if flags.only is None else (flags.only, 1)
        found = fuzz(DOORS[name], flags.seed, first, count)
        print(row(name, found), flush=True)
        said += kept(found, flags.seed, flags.keep)
    print(*said, sep="\n")
    print(f"limits: {worker.SECONDS} s of processor and {worker.MEMORY >> 20} MiB an input")
    return int(bool(said))


if __name__ == "__main__":
    sys.exit(main())
