"""What is left of an error on the terminal: one line that says what, where and what to do."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipeline import failures
from pipeline.connect.topics import Undelivered
from pipeline.engines.local import live, patches
from pipeline.engines.polling import NOTHING_WAITS, Polled, ReadLive
from pipeline.errors import CheckpointFailed, ConfigError, LakeFailed, WarehouseFailed
from pipeline.sinks.duckdb import Busy
from tests.pipeline.engines.local.test_live import Script, new_pipeline
from transforms.batch import MESSAGES, BatchKind, Origin, RawBatch

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _begun() -> Iterator[None]:
    before = {handler: list(handler.filters) for handler in logging.getLogger().handlers}
    hooks = threading.excepthook, sys.unraisablehook
    failures.begin([])
    yield
    for handler, filters in before.items():
        handler.filters[:] = filters
    threading.excepthook, sys.unraisablehook = hooks


def rows(number: int = 3) -> RawBatch:
    origin = Origin("cells/", source_file="cells/C1.csv", first_row=41)
    return RawBatch(pa.table({"a": range(number)}), BatchKind.ROWS, origin)


def messages() -> RawBatch:
    columns: dict[str, Any] = {
        name: pa.nulls(2, MESSAGES.field(name).type) for name in MESSAGES.names
    }
    columns["position"] = pa.array(["t/0/7", "t/0/8"])
    return RawBatch(pa.table(columns, schema=MESSAGES), BatchKind.MESSAGES, Origin("kafka://b/t"))


def fail(error: Exception) -> Callable[[RawBatch], None]:
    def step(raw: RawBatch) -> None:
        raise error

    return step


def error_of(pipeline: beam.Pipeline) -> BaseException:
    with pytest.raises(Exception) as raised:  # noqa: PT011 - each runner has its own
        pipeline.run().wait_until_finish()
    return raised.value


def of_bounded(error: Exception, raw: RawBatch) -> BaseException:
    """What the runner of bounded input makes of an error in a step."""
    pipeline = beam.Pipeline(FnApiRunner())
    given = pipeline | beam.Create([raw], reshuffle=False)
    _ = given | "Validate" >> beam.Map(fail(error))
    return error_of(pipeline)


def of_live(error: Exception, raw: RawBatch) -> BaseException:
    """The same of the live one."""
    live.install()
    patches.install()
    source = Script([Polled([raw], 0), Polled([], NOTHING_WAITS, done=True)])
    pipeline = new_pipeline()
    _ = pipeline | ReadLive("test_failures", source) | "Validate" >> beam.Map(fail(error))
    return error_of(pipeline)


BOTH = pytest.mark.parametrize("ended", [of_bounded, of_live])


@BOTH
@pytest.mark.parametrize("kind", [LakeFailed, WarehouseFailed])
def test_what_says_itself_what_to_do_is_shown_as_it_is(ended: Any, kind: Any) -> None:
    error = ended(kind("--lake=x: y can't be written (full); free disk space"), rows())
    assert failures.line(error) == "--lake=x: y can't be written (full); free disk space"


@BOTH
@pytest.mark.parametrize(
    ("raw", "at"), [(rows(), "cells/C1.csv, rows 41 to 43"), (messages(), "t/0/7 to t/0/8")]
)
def test_another_error_names_the_step_and_the_input(ended: Any, raw: RawBatch, at: str) -> None:
    found = failures.line(ended(KeyError("no such\ncolumn"), raw))
    assert found.startswith("step ") and "Validate" in found and f", at {at}: KeyError: " in found
    assert "\n" not in found and found.endswith("; --debug shows the traceback")


def test_the_system_s_errors_say_what_to_do() -> None:
    found = failures.line(of_bounded(OSError(28, "No space left on device", "/tmp/x"), rows()))
    assert "OSError: [Errno 28] No space left on device: '/tmp/x'; free disk space" in found
    assert failures.line(OSError(28, "No space left on device", "/tmp/x")).startswith(
        "the job: OSError: [Errno 28] No space"
    )


def test_what_a_name_does_to_a_terminal_is_not_done() -> None:
    assert failures.line(ConfigError("a\x1b[31m\x07b")) == "a [31m b"


def test_the_status_says_who_can_fix_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert failures.ended(ConfigError("--x: no"), []) == 2
    assert failures.ended(LakeFailed("--lake=x: no"), []) == 1
    assert capsys.readouterr().err == "error: --x: no\nerror: --lake=x: no\n"
    assert failures.ended(LakeFailed("--lake=x: no"), ["--debug"]) == 1
    assert "LakeFailed" in capsys.readouterr().err


# --- the log --------------------------------------------------------------------------------------


def record(name: str, message: str, *values: object, level: int = logging.WARNING) -> Any:
    return logging.LogRecord(name, level, __file__, 1, message, values, None)


def test_what_clients_repeat_is_shown_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    lines, now = failures.Lines(), 1000.0
    monkeypatch.setattr("pipeline.failures.time.monotonic", lambda: now)
    shown = [lines.filter(record("kafka.conn", "node %d: refused", n)) for n in range(50)]
    assert shown == [True] + [False] * 49
    now += 61
    later = record("kafka.conn", "node %d: refused", 99)
    assert lines.filter(later) and later.getMessage() == "node 99: refused (49 more like it)"
    assert lines.filter(record("kafka.client", "node %d: refused", 1))


def test_what_clients_repeat_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    lines, now = failures.Lines(), 1000.0
    monkeypatch.setattr("pipeline.failures.time.monotonic", lambda: now)
    # Each is another text, and comes twice.
    for number in range(5_000):
        text = f"node {number}: refused"
        assert [lines.filter(record("kafka.conn", text)) for _ in range(2)] == [True, False]
    assert len(lines._shown_s) == len(lines._more) == 1_000
    # The last ones are those that are known.
    assert not lines.filter(record("kafka.conn", "node 4999: refused"))
    assert lines.filter(record("kafka.conn", "node 0: refused"))


def test_our_own_warnings_are_each_shown_as_one_line() -> None:
    lines = failures.Lines()
    for number in range(3):
        ours = record("pipeline.sinks.lake.files", "%s is damaged\nand more", number)
        assert lines.filter(ours) and ours.getMessage() == f"{number} is damaged"


def test_what_the_runners_log_of_a_step_s_error_is_left_to_the_last_line() -> None:
    name = "apache_beam.runners.direct.executor"
    assert not failures.Lines().filter(record(name, "Exception at bundle", level=logging.ERROR))
    assert failures.Lines().filter(record(name, "something else"))


# --- commands -------------------------------------------------------------------------------------


def test_a_full_disk_leaves_one_line(tmp_path: Path) -> None:
    code = (
        "import sys, signal, resource; from pipeline.__main__ import main; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, -1)); sys.exit(main())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "--source=simulator:?equipment=2&readings=20000",
         f"--lake={tmp_path}/lake", "--warehouse=none"],
        capture_output=True, check=False, text=True, timeout=100, cwd=ROOT,
    )  # fmt: skip
    assert ended.returncode == 1 and not ended.stdout
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert " can't be written (File too large); raise the limit on the size of a file" in line


# --- every kind, wherever it is raised ------------------------------------------------------------


def test_every_error_of_ours_is_found_in_what_a_runner_hands_on() -> None:
    kinds = [ConfigError, WarehouseFailed, Busy, CheckpointFailed, Undelivered]
    for kind in kinds:
        told = f"Traceback (most recent call last):\n  File x\npipeline.{kind.__name__}: --flag=x: what; fix"
        assert failures.line(RuntimeError(told)) == "--flag=x: what; fix", kind


def test_any_other_error_says_what_to_do() -> None:
    gone = FileNotFoundError(2, "No such file or directory", "java")
    # Before the job reads, another run comes no further.
    assert failures.line(ValueError("odd")) == (
        "the job: ValueError: odd; check the flags (--help lists them) and what they name; "
        "--debug shows the traceback"
    )
    assert "'java'; check the flags (" in failures.line(gone)
    failures.reads()
    assert failures.line(ValueError("odd")).startswith(
        "the job: ValueError: odd; run the job again: it goes on where it was;"
    )
    assert "'java'; put the folder back, then run the job again" in failures.line(gone)


@BOTH
def test_an_error_in_a_step_is_of_a_job_that_reads(ended: Any) -> None:
    assert "; run the job again: it goes on where it was;" in failures.line(
        ended(KeyError("x"), rows())
    )


def test_a_line_that_only_announces_others_is_followed_by_the_first() -> None:
    found = failures.line(ValueError("Errors of validation: \n--a: no such thing\n--b: neither"))
    assert "ValueError: Errors of validation:  --a: no such thing; check" in found


def test_an_error_that_ends_a_thread_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise LakeFailed("--lake=x: can't be written; free disk space")

    thread = threading.Thread(target=work, name="load jobs")
    thread.start()
    thread.join()
    told = "error: load jobs: --lake=x: can't be written; free disk space\n"
    assert capsys.readouterr().err == told
