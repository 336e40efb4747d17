"""How a command ends when something fails: one line that says what, where and what to do.

The traceback, and what Beam logs of it, is shown with --debug.
"""

from __future__ import annotations

import argparse
import errno
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import pyarrow as pa

from pipeline.engines import logs
from pipeline.errors import AGAIN, CHECK, FIXES, ConfigError, JobFailed, shown_names
from pipeline.shown import PlainLines, guard, say
from transforms.batch import BatchKind, RawBatch

_log = logging.getLogger(__name__)
_FLAG = "--debug"
_HELP = "show the traceback of an error, and all that Beam logs"
_DEBUG = f"{_FLAG} shows the traceback"
# A warning that comes again and again is shown once in so many seconds.
_EVERY_S = 60.0
# Of so many different ones that is remembered; a text that a client made itself may be new each time.
_MOST = 1_000
_LENGTH = 500
_NAMES = 3
# What is defined there says which file or messages it is about.
_NAMING = ("pipeline.sources", "pipeline.stores.raw_file")
_TASK_FAILED = "A task failed with exception"

# In the text of an error, or of a whole traceback, that a runner hands on.
_OURS = r"\b(?:{names}): (.+?)(?: \[while running|\\n|\n|$)"
_STEP = re.compile(r" ?\[while running '([^']*)'\]")
_ERRNO = re.compile(r"\[Errno (\d+)\]")
_RAISED = re.compile(r"[A-Za-z_][\w.]*(?:: .*|$)")

# Set once the job reads. An error before that needs a change by the user, not only another run.
_READS = threading.Event()


def add_flag(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Adds --debug."""
    parser.add_argument(_FLAG, action="store_true", help=_HELP)


def begin(argv: Sequence[str]) -> None:
    """Has a command log as it should: a line for a warning, everything with --debug.

    Args:
        argv: the command's flags.
    """
    guard()
    _FIRST.clear()
    _READS.clear()
    if _FLAG not in argv:
        threading.excepthook = _thread_ended
        sys.unraisablehook = _unraisable
    steps = logging.getLogger(logs.STEPS)
    if not any(isinstance(handler, _Steps) for handler in steps.handlers):
        steps.addHandler(_Steps())
    for handler in logging.getLogger().handlers:
        # Only what goes to the terminal by our own hand: others may want every line.
        if not isinstance(handler.formatter, PlainLines):
            continue
        for former in [each for each in handler.filters if isinstance(each, Lines)]:
            handler.removeFilter(former)
        if _FLAG not in argv:
            handler.addFilter(Lines())


def reads() -> None:
    """Told when the job begins to read: what fails from here on may be mended by another run."""
    _READS.set()


def _thread_ended(args: threading.ExceptHookArgs) -> None:
    """What ends a thread is one line, too; whoever waits for its work says what follows."""
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        name = args.thread.name if args.thread is not None else "a thread"
        say(f"error: {name}: {line(args.exc_value)}", error=True)


def _unraisable(args: sys.UnraisableHookArgs) -> None:
    if args.exc_value is not None:
        _log.warning("%s", line(args.exc_value))


def ended(error: Exception, argv: Sequence[str]) -> int:
    """Prints an error's one line; returns the exit status: 2 for what a flag can fix, else 1.

    Args:
        error: what ended the command.
        argv: the command's flags.
    """
    if _FLAG in argv:
        traceback.print_exception(error)
    say(f"error: {line(error)}", error=True)
    return 2 if isinstance(error, ConfigError) else 1


def line(error: BaseException) -> str:
    """The one line of an error, be it one of ours or any that a runner handed on as text."""
    text = str(error)
    if isinstance(error, ConfigError):
        return _clean(text)
    if isinstance(error, JobFailed):
        return _clean(_STEP.split(text)[0])
    whole = f"{type(error).__name__}: {text}"
    if found := re.search(_OURS.format(names="|".join(shown_names())), whole):
        return _clean(found[1])
    said = _last_raised(whole)
    steps = _STEP.findall(whole)
    # What the runner told is about the step that failed first, whose input was noted.
    at = _FIRST.get("input") if steps else None
    where = f"step {steps[0]}" if steps else "the job"
    where += f", at {at}" if at else ""
    return _clean(f"{where}: {said}; {_fix(said, bool(steps) or _READS.is_set())}; {_DEBUG}")


def _fix(said: str, reads: bool) -> str:
    """What to do about an error that does not say it itself."""
    found = _ERRNO.search(said)
    number = int(found[1]) if found else 0
    # Before the job has begun no folder of it can be gone: what is missing was never there.
    known = FIXES if reads else {**FIXES, errno.ENOENT: CHECK}
    return known.get(number) or (AGAIN if reads else CHECK)


def _last_raised(text: str) -> str:
    """The last error of a traceback's text, without the steps it went through."""
    lines = [_STEP.sub("", each) for each in text.splitlines() if each.strip()]
    if "Traceback (most recent call last)" in text:
        raised = [each for each in lines if _RAISED.fullmatch(each) and not each.endswith(":")]
        return raised[-1] if raised else lines[-1]
    # The first line of several may only announce the others.
    return " ".join(lines[:2] if lines and lines[0].rstrip().endswith(":") else lines[:1]) or text


def _clean(text: str) -> str:
    shown = "".join(sign if sign.isprintable() else " " for sign in text)
    return shown if len(shown) <= 2 * _LENGTH else f"{shown[: 2 * _LENGTH]}…"


# --- the input that a step was at ---------------------------------------------------------------

# Of the first step that failed; others may fail after it, because of it.
_FIRST: dict[str, str] = {}


class _Steps(logging.Handler):
    """Takes note of what a step was working on when it failed; Beam logs that, and then forgets it."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[2] is not None and "input" not in _FIRST:
            found = input_of(record.exc_info[2])
            if found is not None:
                _FIRST["input"] = found


def input_of(trace: TracebackType) -> str | None:
    """What was worked on, by the innermost variable that says it."""
    found = None
    for frame, _ in traceback.walk_tb(trace):
        for value in frame.f_locals.values():
            found = _named(value) or found
    return found


def _named(value: Any) -> str | None:
    """The file or messages that a value is or comes from; None if it does not say."""
    try:
        if isinstance(value, RawBatch):
            if value.kind is BatchKind.MESSAGES:
                return _rows(value.table) or value.origin.source_file
            first = value.origin.first_row
            file = value.origin.source_file or value.origin.source
            return f"{file}, rows {first:,} to {first + value.table.num_rows - 1:,}"
        if isinstance(value, pa.Table):
            return _rows(value)
        if type(value).__module__.startswith(_NAMING):
            path = getattr(value, "source_file", None) or getattr(value, "path", None)
            return path if isinstance(path, str) else None
    except Exception:  # noqa: BLE001 - it is about an error that has to be shown in any case
        return None
    return None


def _rows(table: pa.Table) -> str | None:
    if not table.num_rows:
        return None
    if "position" in table.column_names:
        first, last = table["position"][0].as_py(), table["position"][-1].as_py()
        if first is not None:
            return str(first) if first == last else f"{first} to {last}"
    if "source_file" in table.column_names:
        names = table["source_file"].unique().drop_null().to_pylist()
        if names:
            return ", ".join(names[:_NAMES]) + (", …" if len(names) > _NAMES else "")
    return None


# --- the log --------------------------------------------------------------------------------------


class Lines(logging.Filter):
    """Makes each record one line, and lets what others' clients repeat through once a minute.

    Beam logs a step's error with its traceback at every try; the job's own last line says it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._shown_s: dict[object, float] = {}
        self._more: dict[object, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is shown."""
        if record.name.startswith(logs.RUNNERS) and (
            record.levelno >= logging.ERROR or record.getMessage().startswith(_TASK_FAILED)
        ):
            return False
        said = record.getMessage()
        key = None if record.name.startswith("pipeline") else (record.name, record.msg)
        more = 0 if key is None else self._repeated(key)
        if more is None:
            return False
        first = next(self._lines(said), "")
        if record.exc_info and record.exc_info[1] is not None:
            first += f" ({type(record.exc_info[1]).__name__})"
        record.msg, record.args = first + (f" ({more:,} more like it)" if more else ""), None
        record.exc_info = record.exc_text = record.stack_info = None
        return True

    def _repeated(self, key: object) -> int | None:
        """How many like it were not shown since the last one; None if this one is not, either."""
        with self._lock:
            now = time.monotonic()
            if now - self._shown_s.get(key, -_EVERY_S) < _EVERY_S:
                self._more[key] = self._more.get(key, 0) + 1
                return None
            # The one shown longest ago comes first, and is forgotten first.
            self._shown_s.pop(key, None)
            self._shown_s[key] = now
            more = self._more.pop(key, 0)
            if len(self._shown_s) > _MOST:
                oldest = next(iter(self._shown_s))
                del self._shown_s[oldest]
                self._more.pop(oldest, None)
            return more

    @staticmethod
    def _lines(said: str) -> Iterator[str]:
        return (_clean(each) for each in said.splitlines() if each.strip())
