"""The process in which a door takes its inputs, so that none takes the fuzzer along."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import random
import re
import resource
import signal
import traceback
from pathlib import Path

import pyarrow as pa

from tests.fuzz.doors.door import Door, Taken
from tests.fuzz.doors.mutate import change

# Of processor, which other processes on the machine do not change; and by the clock, for what
# waits for something.
SECONDS = 10
WAITING_S = 120
MEMORY = 1_500 << 20
# Beyond what is taken before, so that a native allocation beyond it fails.
_ADDRESSES = 6 << 30
_SHOWN = 300
# What holds none of these, such as white space or `[]`, is empty.
_SAYS = re.compile(rb"\w")


def input_of(door: Door, seeds: list[bytes], seed: int, index: int) -> bytes:
    """The input of a number: the seeds as they are, then changed ones."""
    if index < len(seeds):
        return seeds[index]
    return change(door, seeds, random.Random(f"{seed}/{door.name}/{index}"))


def begin() -> None:
    """Makes a new process one that may end at any time and says nothing."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A test runner may have its own use for them.
    faulthandler.disable()
    for each in (signal.SIGALRM, signal.SIGVTALRM, signal.SIGINT):
        signal.signal(each, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    # A warning for every damaged file would drown the table.
    logging.getLogger("pipeline").setLevel(logging.ERROR)
    # The other processors have processes of their own.
    pa.set_cpu_count(1)
    # What is there by now stays: nobody needs to look for garbage in it.
    gc.freeze()


def work(door: Door, seed: int, first: int, end: int, into: int) -> None:
    """Gives a door inputs `first` to `end` and tells what comes of each, a line in a pipe."""

    def tell(line: str) -> None:
        os.write(into, f"{line}\n".encode())

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
            after = resource.getrusage(resource.RUSAGE_SELF)
            if taken == Taken() and not door.unsaid and _SAYS.search(data):
                tell("crash nothing was read and nothing refused")
            # The largest since the process began: whoever passes the limit is the first.
            peak = after.ru_maxrss << 10
            tell(f"TOOK {taken.readings} {taken.refused} {peak} {after.ru_utime - used:.3f}")
            if peak > MEMORY:
                return  # the peak would be the next one's, too
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
