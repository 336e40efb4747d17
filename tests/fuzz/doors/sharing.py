"""Shares inputs out over the doors and over processes that work side by side."""

from __future__ import annotations

import os
import selectors
import signal
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.fuzz.doors import worker
from tests.fuzz.doors.door import Door
from tests.fuzz.doors.figures import Broken, Figures

# So many inputs a process: what they leave behind ends with it.
TOGETHER = 2_000
# Of what a door would get if each got as many: the least it gets, however slow it is.
FLOOR = 1 / 4
JOBS = os.cpu_count() or 1


def fuzz(door: Door, seed: int, first: int, count: int, jobs: int = 1) -> Figures:
    """Gives a door inputs `first` to `first + count`."""
    figures = Figures()
    _run([Stint(door, figures, first, first + count)], seed, jobs)
    return figures


def fuzz_all(
    doors: Sequence[Door], seed: int, inputs: int, jobs: int, done: Callable[[Door, Figures], None]
) -> None:
    """Gives all doors that many inputs together, first the least of each, then by what they cost.

    Args:
        doors: to give them to.
        seed: of all choices.
        inputs: how many.
        jobs: processes at the same time.
        done: is told of each door when it has had all of its inputs.
    """
    found = [Figures() for _ in doors]
    least = max(int(FLOOR * inputs / len(doors)), 1)
    _run([Stint(*each, 0, least) for each in zip(doors, found, strict=True)], seed, jobs)
    more = shared(inputs - least * len(doors), [figures.rate for figures in found])
    for door, figures, count in zip(doors, found, more, strict=True):
        _run([Stint(door, figures, least, least + count)], seed, jobs)
        done(door, figures)


def shared(inputs: int, rates: Sequence[float]) -> list[int]:
    """How many each of the doors gets, so that all take the same time.

    Args:
        inputs: how many there are; none are given where it is below 0.
        rates: inputs in a second, of each door.
    """
    inputs, total = max(inputs, 0), sum(rates)
    ends = [round(inputs * sum(rates[: place + 1]) / total) for place in range(len(rates))]
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]


@dataclass
class Stint:
    """Inputs of a door that are still to be given; `end` is exclusive."""

    door: Door
    figures: Figures
    first: int
    end: int


def _run(stints: Sequence[Stint], seed: int, jobs: int) -> None:
    waiting: deque[Stint] = deque()
    for stint in stints:
        size = max(min(TOGETHER, -(-(stint.end - stint.first) // jobs)), 1)
        for first in range(stint.first, stint.end, size):
            waiting.append(Stint(stint.door, stint.figures, first, min(first + size, stint.end)))
    with selectors.DefaultSelector() as running:
        while waiting or running.get_map():
            while waiting and len(running.get_map()) < jobs:
                stint = waiting.popleft()
                child, pipe = _started(stint, seed)
                running.register(pipe, selectors.EVENT_READ, (stint, child, bytearray()))
            for key, _ in running.select():
                stint, child, told = key.data
                if data := os.read(key.fd, 1 << 16):
                    told += data
                    continue
                running.unregister(key.fd)
                os.close(key.fd)
                left = _ended(stint, child, told.decode("utf-8", "replace").splitlines())
                if left.first < left.end:
                    waiting.appendleft(left)


def _started(stint: Stint, seed: int) -> tuple[int, int]:
    """A process that takes the inputs, and where it tells what came of them."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(out)
            worker.begin()
            worker.work(stint.door, seed, stint.first, stint.end, into)
            status = 0
        finally:
            os._exit(status)
    os.close(into)
    return child, out


def _ended(stint: Stint, child: int, lines: list[str]) -> Stint:
    """Counts what a process has told; returns what it has left of its inputs."""
    _, ended, used = os.wait4(child, 0)
    status = os.waitstatus_to_exitcode(ended)
    figures, name = stint.figures, stint.door.name
    figures.seconds += used.ru_utime + used.ru_stime
    at, took = stint.first - 1, False
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
            if int(peak) > worker.MEMORY:
                said = f"{int(peak) >> 20} MiB"
                figures.broken.append(Broken(name, at, "memory", said))
        elif word in ("crash", "memory"):
            took = True
            figures.broken.append(Broken(name, at, word, rest))
        elif word == "SEEDS":
            raise RuntimeError(f"{name}: its seeds can't be made: {rest}")
    if status and not took:
        hang = status in (-signal.SIGVTALRM, -signal.SIGALRM, -signal.SIGXCPU)
        said = f"ended with {status}" if not hang else f"over {worker.SECONDS} s"
        figures.broken.append(Broken(name, at, "hang" if hang else "killed", said))
    if at < stint.first and status:
        raise RuntimeError(f"{name}: the process ended with {status} before its first input")
    return Stint(stint.door, figures, at + 1, stint.end)
