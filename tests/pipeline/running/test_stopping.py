"""Real signals to real processes: the first drains, the second stops at once."""

from __future__ import annotations

from pipeline.running.stopping import STOPPED_EARLY, stop_on_signals

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# It waits as Beam's runner does, and takes its time to drain.
JOB = """
import os, queue, signal, sys, threading, time
from pipeline.running.stopping import stop_on_signals

asked, done = threading.Event(), queue.Queue()

def work():
    asked.wait()
    time.sleep(float(sys.argv[1]))
    done.put("drained")

def stop():
    print("stop called", flush=True)
    asked.set()
    if "twice" in sys.argv:
        os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=work, daemon=True).start()
with stop_on_signals(stop):
    print("ready", flush=True)
    while True:
        try:
            print(done.get(timeout=1), flush=True)
            break
        except queue.Empty:
            pass
    print("within", flush=True)
print("after", flush=True)
if "and waits" in sys.argv:
    time.sleep(30)
"""


@contextmanager
def job(*arguments: str, before: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    """A process that waits for a signal."""
    command = [*before, sys.executable, "-c", JOB, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def await_line(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"{line}\n"


BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@BOTH
def test_the_first_signal_drains(number: signal.Signals) -> None:
    with job("0.5") as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 0
        assert out.splitlines() == ["stop called", "drained", "within", "after"]
        assert err.splitlines() == [
            "stopping: what was read is written and committed first; again to stop at once"
        ]


@BOTH
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_stops_at_once(first: signal.Signals, number: signal.Signals) -> None:
    with job("60") as process:
        process.send_signal(first)
        await_line(process, "stop called")
        time.sleep(0.7)
        since = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        assert time.monotonic() - since < 2
        assert out == ""
        if number == signal.SIGINT:
            assert "KeyboardInterrupt" in err
        # A shell shows 130 and 143.
        assert process.returncode == -number


def test_a_signal_that_comes_twice_at_once_is_one() -> None:
    with job("0.5", "twice") as process:
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
        assert process.returncode == 0
        assert out.splitlines() == ["stop called", "drained", "within", "after"]


@pytest.mark.skipif(not shutil.which("timeout"), reason="no `timeout` command")
def test_the_timeout_command_drains() -> None:
    with job("1", before=["timeout", "--preserve-status", "3"]) as process:
        out, _ = process.communicate(timeout=20)
        assert process.returncode == 0
        assert out.splitlines() == ["stop called", "drained", "within", "after"]


@BOTH
def test_the_former_handlers_are_back_afterwards(number: signal.Signals) -> None:
    with job("0", "and waits") as process:
        process.send_signal(number)
        for line in ("stop called", "drained", "within", "after"):
            await_line(process, line)
        process.send_signal(number)
        process.wait(20)
        assert process.returncode == -number


def test_the_former_handlers_are_back_after_an_error_too() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def fail() -> None:
        with stop_on_signals(lambda: None):
            assert signal.getsignal(signal.SIGTERM) != before[1]
            raise OSError("wrong")

    with pytest.raises(OSError, match="wrong"):
        fail()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    # As a shell starts what is to run in the background.
    ignoring = (
        "import os, signal, sys;"
        "signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    with job("0", before=[sys.executable, "-c", ignoring]) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert "after" in process.communicate(timeout=20)[0]


def test_a_reader_of_its_messages_that_is_gone_does_not_keep_it_from_draining() -> None:
    with job("0.2") as process:
        assert process.stderr is not None
        process.stderr.close()
        process.stderr = None
        process.send_signal(signal.SIGTERM)
        assert "drained" in process.communicate(timeout=20)[0]
        assert process.returncode == 0


def test_outside_the_main_thread_it_does_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def run() -> None:
        with stop_on_signals(lambda: None):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]


def test_in_this_process_too() -> None:
    called = []
    with stop_on_signals(lambda: called.append("stop")):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
    assert called == ["stop"]


# --- before the job runs ---------------------------------------------------------------------

# As `python -m pipeline` after its imports.
EARLY_JOB = """
import os, signal, sys, time
from pipeline.running.stopping import EARLY, StoppedEarly, stop_on_signals
EARLY.begin()
EARLY.imported()
EARLY.check()
os.kill(os.getpid(), getattr(signal, sys.argv[1]))
print("asked", EARLY.asked, flush=True)
if "twice" in sys.argv:
    time.sleep(0.6)
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))
if "bounded" in sys.argv:
    EARLY.end()
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))
if "started" in sys.argv:
    with stop_on_signals(lambda: print("stop called", flush=True)):
        if "again" in sys.argv:
            time.sleep(0.6)
            os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        print("within", flush=True)
    sys.exit()
try:
    EARLY.check()
except StoppedEarly as error:
    print(error)
"""


def early(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", EARLY_JOB, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


NAMES = pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])


def takes_signals(pid: int) -> bool:
    """Whether a process has a handler of SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(line.split()[1] for line in status if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


@BOTH
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_signal_during_the_imports_ends_in_one_line(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "pipeline", "--source=simulator:", "--lake=none"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            until = time.monotonic() + 30
            while not takes_signals(process.pid):
                assert time.monotonic() < until
            process.send_signal(number)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, "", f"{STOPPED_EARLY}\n")


@NAMES
def test_a_signal_before_the_source_starts_is_found_at_the_next_look(name: str) -> None:
    ended = early(name)
    assert (ended.returncode, ended.stdout) == (0, f"asked True\n{STOPPED_EARLY}\n")
    assert ended.stderr.count("\n") == 1


@NAMES
def test_a_signal_while_the_source_starts_drains(name: str) -> None:
    ended = early(name, "started")
    assert (ended.returncode, ended.stdout) == (0, "asked True\nstop called\nwithin\n")
    assert "what was read is written and committed first" in ended.stderr


@NAMES
@pytest.mark.parametrize("when", [("twice",), ("bounded",), ("started", "again")])
def test_a_second_signal_does_what_it_always_did(name: str, when: tuple[str, ...]) -> None:
    ended = early(name, *when)
    assert ended.returncode == -getattr(signal, name)
    assert "within" not in ended.stdout
    assert ("KeyboardInterrupt" in ended.stderr) == (name == "SIGINT")
