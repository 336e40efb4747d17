"""Gives inputs to a door in processes of their own, so that none takes the fuzzer along."""

from __future__ import annotations

import faulthandler
import logging
import os
import random
import re
import resource
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.doors.door import Door, Taken
from tests.fuzz.doors.mutate import change

# Of processor, which other processes on the machine do not change; and by the clock, for what
# waits for something.
SECONDS = 10
WAITING_S = 120
MEMORY = 1_500 << 20
# Beyond what is taken before, so that a native allocation beyond it fails.
_ADDRESSES = 6 << 30
# So many inputs a process: what they leave behind ends with it.
TOGETHER = 200
_SHOWN = 300
# What holds none of these, such as white space or `[]`, is empty.
_SAYS = re.compile(rb"\w")


@dataclass
class Broken:
    """An input that a door did not stand."""

    door: str
    index: int
    kind: str  # crash, hang, memory, killed
    message: str


@dataclass
class Figures:
    """What came of a door's inputs.

    `peak` is the largest resident memory of a process while it took one, bytes; `slowest` the
    longest time of processor one took, seconds.
    """

    inputs: int = 0
    read: int = 0
    refused: int = 0
    nothing: int = 0
    peak: int = 0
    slowest: float = 0.0
    broken: list[Broken] = field(default_factory=list)

    def of(self, *kinds: str) -> int:
        """How many were broken in one of these ways."""
        return sum(each.kind in kinds for each in self.broken)


def input_of(door: Door, seeds: list[bytes], seed: int, index: int) -> bytes:
    """The input of a number: the seeds as they are, then changed ones."""
    if index < len(seeds):
        return seeds[index]
    return change(door, seeds, random.Random(f"{seed}/{door.name}/{index}"))


def fuzz(door: Door, seed: int, first: int, count: int) -> Figures:
    """Gives a door inputs `first` to `first + count`."""
    figures = Figures()
    at = first
    while at < first + count:
        end = min(at + TOGETHER, first + count)
        at = _batch(door, seed, at, end, figures)
    return figures


def _batch(door: Door, seed: int, first: int, end: int, figures: Figures) -> int:
    """Runs inputs in one process until one breaks it; returns where to go on."""
    at, took = first - 1, False
    lines, status = _forked(lambda tell: _work(door, seed, first, end, tell))
    for line in lines:
        word, _, rest = line.partition(" ")
        if word == "TRY":
            at, took = int(rest), False
            figures.inputs += 1
        elif word == "TOOK":  # after a crash, too, where it is only the account that is wrong
            took = True
            readings, refused, peak, seconds = rest.split()
            figures.read += int(readings) > 0
            figures.refused += int(readings) == 0 and int(refused) > 0
            figures.nothing += readings == refused == "0"
            figures.peak = max(figures.peak, int(peak))
            figures.slowest = max(figures.slowest, float(seconds))
            if int(peak) > MEMORY:
                said = f"{int(peak) >> 20} MiB"
                figures.broken.append(Broken(door.name, at, "memory", said))
        elif word in ("crash", "memory"):
            took = True
            figures.broken.append(Broken(door.name, at, word, rest))
        elif word == "SEEDS":
            raise RuntimeError(f"{door.name}: its seeds can't be made: {rest}")
    if status and not took:
        hang = status in (-signal.SIGVTALRM, -signal.SIGALRM, -signal.SIGXCPU)
        said = f"ended with {status}" if not hang else f"over {SECONDS} s"
        figures.broken.append(Broken(door.name, at, "hang" if hang else "killed", said))
    if at < first and status:
        raise RuntimeError(f"{door.name}: the process ended with {status} before its first input")
    return at + 1


def _forked(work: Callable[[Callable[[str], None]], None]) -> tuple[list[str], int]:
    """The lines that `work` tells from a process of its own, and how that ended."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(out)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            # A test runner may have its own use for them.
            faulthandler.disable()
            for each in (signal.SIGALRM, signal.SIGVTALRM):
                signal.signal(each, signal.SIG_DFL)
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 1)
            os.dup2(nothing, 2)
            work(lambda line: (os.write(into, f"{line}\n".encode()), None)[1])
            status = 0
        finally:
            os._exit(status)
    os.close(into)
    with os.fdopen(out, encoding="utf-8", errors="replace") as pipe:
        lines = pipe.read().splitlines()
    _, ended = os.waitpid(child, 0)
    return lines, os.waitstatus_to_exitcode(ended)


def _work(door: Door, seed: int, first: int, end: int, tell: Callable[[str], None]) -> None:
    # In the child alone: a warning for every damaged file would drown the table.
    logging.getLogger("pipeline").setLevel(logging.ERROR)
    try:
        seeds = door.inputs()
    except Exception as error:
        tell(f"SEEDS {_line(error)}")
        return
    before = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (before + _ADDRESSES, before + _ADDRESSES))
    for index in range(first, end):
        data = input_of(door, seeds, seed, index)
        tell(f"TRY {index}")
        _reset_peak()
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WAITING_S)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        try:
            taken = door.run(data)
        except MemoryError:
            tell("memory MemoryError")
            return  # what is left of it is of no use
        except BaseException as error:
            tell(f"crash {_line(error)}")
        else:
            seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime - used
            if taken == Taken() and not door.unsaid and _SAYS.search(data):
                tell("crash nothing was read and nothing refused")
            tell(f"TOOK {taken.readings} {taken.refused} {_peak()} {seconds:.3f}")
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)


def _line(error: BaseException) -> str:
    """The error and where in this project it was raised, as one line."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if ".venv" not in f.filename]
    root = str(Path(__file__).parents[3])
    own = [f for f in frames if "/fuzz/doors/" not in f.filename] or frames
    place = f"{own[-1].filename.removeprefix(root + '/')}:{own[-1].lineno}" if own else "?"
    return " ".join(f"{type(error).__name__}: {error}".split())[:_SHOWN] + f" @ {place}"


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


def distinct(broken: list[Broken]) -> Iterator[tuple[Broken, int]]:
    """One of each kind of fault, by what was said and where, and how many there are."""
    counts = Counter((each.kind, _without_numbers(each.message)) for each in broken)
    seen: set[tuple[str, str]] = set()
    for each in broken:
        key = (each.kind, _without_numbers(each.message))
        if key not in seen:
            seen.add(key)
            yield each, counts[key]


def _without_numbers(message: str) -> str:
    """The kind of the error and its place."""
    return f"{message.partition(':')[0]} {message.rpartition('@')[2]}"
