"""python -m tests.fuzz.doors: changed inputs through every door; none may break one."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.fuzz.doors import worker
from tests.fuzz.doors.door import Door
from tests.fuzz.doors.doors import DOORS
from tests.fuzz.doors.figures import Figures, distinct
from tests.fuzz.doors.sharing import JOBS, fuzz, fuzz_all
from tests.fuzz.doors.worker import input_of


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.doors", description=__doc__)
    parser.add_argument(
        "--inputs", type=int, default=10_000,
        help="of all doors; each gets as much time, but no fewer than a quarter of what it would "
        "get if they got equally many; default: 10000",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=int, default=JOBS, help="processes at the same time; default: processors"
    )
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
           "slowest s", "a second")  # fmt: skip
HEAD = f"{'door':<12}" + "".join(f"{title:>11}" for title in _TITLES)


def row(name: str, found: Figures) -> str:
    """A door with what came of its inputs; see HEAD."""
    cells = [found.inputs, found.read, found.refused, found.nothing, found.of("crash", "killed"),
             found.of("hang"), found.of("memory"), found.peak >> 20]  # fmt: skip
    counts = "".join(f"{c:>11,}" for c in cells)
    return f"{name:<12}{counts}{found.slowest:>11.2f}{found.rate:>11,.0f}"


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
    every = Figures()
    begun = time.monotonic()

    def done(door: Door, found: Figures) -> None:
        print(row(door.name, found), flush=True)
        said.extend(kept(found, flags.seed, flags.keep))
        every.inputs += found.inputs

    if flags.only is not None:
        done(DOORS[names[0]], fuzz(DOORS[names[0]], flags.seed, flags.only, 1))
    else:
        doors = [DOORS[name] for name in names]
        fuzz_all(doors, flags.seed, flags.inputs, max(flags.jobs, 1), done)
    print(*said, sep="\n")
    seconds = time.monotonic() - begun
    print(
        f"{every.inputs:,} inputs in {seconds:,.0f} s: {every.inputs / seconds:,.0f} a second by the "
        "clock, in the table by one processor's time; limits: "
        f"{worker.SECONDS} s of processor and {worker.MEMORY >> 20} MiB an input"
    )
    return int(bool(said))


if __name__ == "__main__":
    sys.exit(main())
