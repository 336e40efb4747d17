"""What one run of a live job leaves to the next, however it ended."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import CheckpointFailed, ConfigError
from pipeline.running import checkpoint
from pipeline.running.checkpoint import Checkpoint
from pipeline.sinks import Produced
from tests.messages import SECOND, START_US, limits
from tests.properties import use_profile
from tests.running import limited_file_size
from tests.transforms.test_sequence import cell, table_of
from transforms.batch import PackedBatch
from transforms.order import Tail
from transforms.sequence import NOTHING_RECENT, sequence

use_profile()

NOTHING = -(2**62)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state" / "live.checkpoint")


def moment(seconds: float) -> int:
    return START_US + round(seconds * SECOND)


def tail(
    *seconds: float,
    equipment_id: str = "c",
    before: pa.Table | None = None,
    keep_from_us: int = NOTHING,
) -> Tail:
    readings = [cell(at, equipment_id=equipment_id, voltage_v=3.0 + at % 7 / 10) for at in seconds]
    out = sequence(table_of(readings), before, limits(), NOTHING_RECENT)
    return Tail(
        PackedBatch(out.tail), PackedBatch(out.recent), moment(max(seconds)), keep_from_us
    )  # fmt: skip


def remember(kept: Checkpoint, *tails: tuple[int, Tail]) -> None:
    """Runs the step as the job does."""
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        given_tails = pipeline | beam.Create([*tails], reshuffle=False)
        kept.write(Produced(None, None, *[given_tails] * 2, tails=given_tails))


def run(path: str, *tails: tuple[int, Tail], since_s: float | None = 100.0) -> None:
    kept = Checkpoint(path)
    kept.prepare()
    remember(kept, *tails)
    kept.save(since_s)
    kept.finish()


def seconds_of(table: pa.Table | None, equipment_id: str = "c") -> list[float]:
    assert table is not None
    return [
        (row["recorded_at"].timestamp() * SECOND - START_US) / SECOND
        for row in table.select(["equipment_id", "recorded_at"]).to_pylist()
        if row["equipment_id"] == equipment_id
    ]


def remembered(path: str) -> pa.Table | None:
    kept = Checkpoint(path)
    try:
        return kept.remembered()
    finally:
        kept.finish()


# --- from run to run ----------------------------------------------------------------------------


def test_the_next_run_finds_what_the_last_one_remembered(path: str) -> None:
    run(path, (0, tail(1, 2, 3)), (1, tail(5, equipment_id="d")))
    found = remembered(path)
    assert seconds_of(found) == [1, 2, 3] and seconds_of(found, "d") == [5]
    assert found is not None and "stuck_run" in found.column_names


def test_of_what_was_released_before_it_keeps_what_late_readings_may_need(path: str) -> None:
    first = tail(1, 2)
    second = tail(61, 62, before=first.last.table)
    third = tail(400, before=second.last.table, keep_from_us=moment(60))
    run(path, (0, first), (0, second), (0, third))
    assert seconds_of(remembered(path)) == [61, 62, 400]


def test_without_recent_ones_the_last_of_every_equipment_stay(path: str) -> None:
    last = PackedBatch(sequence(table_of([cell(1), cell(2)]), None, limits()).tail)
    run(path, (0, Tail(last, None, 0, NOTHING_RECENT)))
    found = remembered(path)
    assert found is not None and found.equals(last.table)


def test_a_run_that_remembered_nothing_leaves_nothing(path: str) -> None:
    assert remembered(path) is None
    run(path)
    assert remembered(path) is None
    kept = Checkpoint(path)
    assert kept.since_s == 100.0
    kept.finish()


def test_every_run_begins_anew(path: str) -> None:
    run(path, (0, tail(1)))
    run(path, (0, tail(9, equipment_id="d")))
    assert seconds_of(remembered(path)) == []
    assert seconds_of(remembered(path), "d") == [9]


# --- since when ---------------------------------------------------------------------------------


def test_a_first_run_says_when_it_began_before_it_writes_anything(path: str) -> None:
    kept = Checkpoint(path)
    assert kept.since_s is None
    before = time.time()
    kept.prepare()
    assert kept.since_s is not None and before <= kept.since_s <= time.time()
    began = kept.since_s
    kept.save(None)  # it has not caught up: all since it began
    assert kept.since_s == began
    kept.save(began + 7)
    assert kept.since_s == began + 7
    kept.finish()


def test_until_a_run_has_caught_up_it_says_what_the_last_one_did(path: str) -> None:
    run(path, since_s=100.0)
    kept = Checkpoint(path)
    kept.prepare()
    assert kept.since_s == 100.0
    kept.save(None)
    assert kept.since_s == 100.0
    kept.save(250.5)
    assert kept.since_s == 250.5
    kept.finish()
    following = Checkpoint(path)
    assert following.since_s == 250.5
    following.finish()


def test_it_is_the_earliest_of_all_jobs_that_share_a_source(path: str) -> None:
    run(path, since_s=300.0)
    one, other = Checkpoint(path), Checkpoint(path)
    for kept, since_s in ((one, 200.0), (other, 100.0)):
        kept.prepare()
        kept.save(since_s)
    assert one.since_s == 200.0
    assert one.others_since_s == other.others_since_s == 100.0
    other.save(900.0)
    assert one.others_since_s == other.others_since_s == 200.0
    one.finish()
    other.finish()


def test_where_nobody_wrote_it_is_now(path: str) -> None:
    kept = Checkpoint(path)
    before = time.time()
    assert before <= kept.others_since_s <= time.time()
    kept.finish()


def test_a_name_is_no_pattern(tmp_path: Path) -> None:
    run(str(tmp_path / "a"), since_s=1.0)
    kept = Checkpoint(str(tmp_path / "[a-z]"))
    kept.prepare()
    kept.save(500.0)
    assert kept.others_since_s == 500.0
    kept.finish()


# --- several jobs -------------------------------------------------------------------------------


def test_jobs_that_share_a_source_have_files_of_their_own(path: str) -> None:
    one, other, third = (Checkpoint(path) for _ in range(3))
    for number, kept in enumerate((one, other, third)):
        kept.prepare()
        remember(kept, (0, tail(number)))
    for kept in (one, other, third):
        kept.save(100.0)
    assert [seconds_of(kept.remembered()) for kept in (one, other, third)] == [[0], [1], [2]]
    names = [f"{path}{end}" for end in ("", ".2", ".3")]
    assert all(Path(name).is_file() for name in names)
    other.finish()
    again = Checkpoint(path)  # takes up what the one that ended left
    assert seconds_of(again.remembered()) == [1]
    for kept in (one, third, again):
        kept.finish()


def test_more_jobs_than_could_be_meant_are_refused(path: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(checkpoint, "_MOST_JOBS", 1)
    only = Checkpoint(path)
    with pytest.raises(ConfigError, match=r"^--checkpoint=.*\(1 jobs use it\); give a file"):
        Checkpoint(path)
    only.finish()


def killed(work: Callable[[], None]) -> None:
    """Runs `work` in a process of its own, which ends by SIGKILL within it."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(3)  # it should not have come here
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_job_that_was_killed_has_no_file_any_more(path: str) -> None:
    def work() -> None:
        assert Checkpoint(path)._path == path
        die()

    killed(work)
    kept = Checkpoint(path)
    assert kept._path == path
    kept.finish()


# --- interrupted writes, damage -----------------------------------------------------------------


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_write_that_is_cut_off_leaves_the_old_file(
    path: str, step: str, monkeypatch: Any
) -> None:
    run(path, (0, tail(1, 2)), since_s=100.0)

    def work() -> None:
        kept = Checkpoint(path)
        kept.prepare()
        checkpoint._SHARDS[path].setdefault(0, checkpoint._Shard()).add(tail(9))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(step, die)
            kept.save(900.0)

    killed(work)
    kept = Checkpoint(path)
    assert (kept.since_s, kept.others_since_s) == (100.0, 100.0)
    assert seconds_of(kept.remembered()) == [1, 2]
    kept.finish()


def damaged(path: str, spoil: Callable[[bytes], bytes]) -> None:
    Path(path).write_bytes(spoil(Path(path).read_bytes()))


@pytest.mark.parametrize(
    "spoil", [lambda whole: whole[: len(whole) // 2], lambda _: b"", lambda _: b"[]"]
)
def test_a_damaged_file_is_set_aside_and_all_that_is_there_is_looked_at(
    path: str, spoil: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    run(path, (0, tail(1, 2)))
    damaged(path, spoil)
    spoiled = Path(path).read_bytes()
    other = Checkpoint(path)  # a job that shares the source asks since when the others wrote
    assert other.others_since_s == other.since_s == 0.0 and other.remembered() is None
    other.prepare()
    (line,) = caplog.messages
    assert line.startswith(f"--checkpoint={path}: ") and f"set aside as {path}.damaged," in line
    assert Path(f"{path}.damaged").read_bytes() == spoiled
    # Until this run has committed all that it took, the next one has to look at everything too.
    assert other.since_s == 0.0
    other.save(None)
    assert other.since_s == 0.0 and other.others_since_s == 0.0
    other.save(700.0)
    assert other.since_s == other.others_since_s == 700.0
    other.finish()


def test_what_was_set_aside_before_is_kept(path: str) -> None:
    for number in range(2):
        damaged_twice = f"damaged {number}".encode()
        run(path)
        Path(path).write_bytes(damaged_twice)
        kept = Checkpoint(path)
        kept.prepare()
        kept.finish()
    aside = sorted(Path(path).parent.glob("*.damaged*"))
    assert [each.read_bytes() for each in aside] == [b"damaged 0", b"damaged 1"]


def test_no_bit_can_be_another(path: str) -> None:
    run(path, (0, tail(1, 2)))
    whole = Path(path).read_bytes()
    for place in range(len(whole)):
        spoiled = bytearray(whole)
        spoiled[place] ^= 1 << place % 8
        Path(path).write_bytes(spoiled)
        with pytest.raises(checkpoint.Damaged):
            checkpoint._read(Path(path))
    Path(path).write_bytes(whole + b"0")
    with pytest.raises(checkpoint.Damaged, match="checksum"):
        checkpoint._read(Path(path))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=st.floats(0, 1), zeros=st.booleans())
def test_however_it_was_cut_off_it_is_damaged_or_as_it_was(
    tmp_path: Path, part: float, zeros: bool
) -> None:
    path = str(tmp_path / "cut")
    if not Path(f"{path}.whole").exists():
        run(path, (0, tail(1, 2)))
        Path(path).rename(f"{path}.whole")
    whole = Path(f"{path}.whole").read_bytes()
    left = whole[: int(part * len(whole))]
    left = left.ljust(len(whole), b"\0") if zeros else left
    Path(path).write_bytes(left)
    if left == whole:
        found = checkpoint._read(Path(path))
        assert found is not None and seconds_of(found.table) == [1, 2]
    else:
        with pytest.raises(checkpoint.Damaged):
            checkpoint._read(Path(path))
    assert checkpoint._since_s(Path(path)) == (100.0 if left == whole else 0.0)


def older(path: str) -> bytes:
    """What an older version would have written in place of a checkpoint: no checksum."""
    whole = Path(path).read_bytes()
    return whole[checkpoint._HEAD :]


def test_one_of_an_older_version_is_used_and_replaced(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    run(path, (0, tail(1, 2)))
    Path(path).write_bytes(older(path))
    kept = Checkpoint(path)
    kept.prepare()
    assert kept.since_s == 100.0 and seconds_of(kept.remembered()) == [1, 2]
    assert len(caplog.messages) == 1 and "no checksum" in caplog.messages[0]
    kept.save(200.0)
    kept.finish()
    assert checkpoint._read(Path(path)) == checkpoint._Content(200.0, None, checked=True)


@pytest.mark.parametrize("at", [0.3, 0.6, 0.9])
def test_one_of_an_older_version_that_was_cut_off_is_damaged(path: str, at: float) -> None:
    run(path, (0, tail(1, 2)))
    whole = older(path)
    Path(path).write_bytes(whole[: int(len(whole) * at)])
    with pytest.raises(checkpoint.Damaged):
        checkpoint._read(Path(path))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"x": [1]}, "has no column recorded_at of type"),
        ({"profile": pa.array([0], pa.int64())}, "has no column profile of type int32"),
        ({"equipment_id": pa.array([1])}, "has no column equipment_id of type string"),
        ({"secret": ["x"]}, "has a column secret"),
    ],
)
def test_what_is_whole_and_no_tail_does_not_reach_the_steps(
    path: str, columns: dict[str, Any], said: str
) -> None:
    run(path, (0, tail(1)))
    table = remembered(path)
    assert table is not None
    table = table if "x" not in columns else pa.table({"x": [0]})
    for name, values in columns.items():
        if name in table.column_names:
            table = table.drop_columns([name])
        table = table.append_column(name, pa.array(values) if type(values) is list else values)
    kept = Checkpoint(path)
    kept._replace(table, 100.0)
    kept.finish()
    with pytest.raises(checkpoint.Damaged, match=said):
        checkpoint._read(Path(path))


def test_a_folder_that_is_removed_while_the_job_runs_is_named_with_the_fix(path: str) -> None:
    kept = Checkpoint(path)
    kept.prepare()
    shutil.rmtree(Path(path).parent)
    told = rf"^--checkpoint={re.escape(path)}: \S+\.lock can't be written .*put the folder back"
    with pytest.raises(CheckpointFailed, match=told):
        kept.save(None)


def test_a_lock_that_is_removed_is_taken_again_unless_another_job_has_it(path: str) -> None:
    kept = Checkpoint(path)
    kept.prepare()
    Path(f"{path}.lock").unlink()
    kept.save(100.0)
    other = Checkpoint(path)
    assert other._path == f"{path}.2"
    other.finish()
    Path(f"{path}.lock").unlink()
    thief = Checkpoint(path)
    assert thief._path == path
    with pytest.raises(CheckpointFailed, match=r"lock .*was removed and another job has taken it"):
        kept.save(200.0)
    thief.finish()
    kept.finish()


def test_a_full_disk_is_named_with_the_file(path: str) -> None:
    kept = Checkpoint(path)
    kept.prepare()
    with (
        limited_file_size(10),
        pytest.raises(CheckpointFailed, match=rf"^--checkpoint={path}: {path} can't be written"),
    ):
        kept.save(100.0)
    assert sorted(each.name for each in Path(path).parent.iterdir()) == [
        "live.checkpoint", "live.checkpoint.lock"
    ]  # fmt: skip
    assert kept.since_s is not None and kept.since_s > 100.0
    kept.finish()


def arrow_file(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


def test_somebody_s_arrow_file_beside_it_is_no_checkpoint(path: str) -> None:
    run(path, since_s=100.0)
    arrow_file(Path(f"{path}-export.arrow"), pa.table({"x": [1]}))
    kept = Checkpoint(path)
    assert kept.others_since_s == 100.0
    kept.finish()


def refused(path: str) -> str:
    with pytest.raises(ConfigError) as raised:
        Checkpoint(path).prepare()
    return str(raised.value)


def test_a_folder_that_can_t_be_written_is_refused_with_the_flag_and_the_fix(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("")
    for path in (f"{tmp_path}/file/c", f"{tmp_path}/file/deeper/c", "/proc/none/c"):
        said = refused(path)
        assert said.startswith(f"--checkpoint={path}: can't be written (")
        assert said.endswith("); give a file in a folder you may write to, or none")


def test_a_folder_in_place_of_a_file_is_refused_too(tmp_path: Path) -> None:
    assert refused(str(tmp_path)).startswith(f"--checkpoint={tmp_path}: can't be written (")


def test_nothing_but_the_checkpoint_is_left_behind(path: str) -> None:
    run(path, (0, tail(1)))
    names = sorted(each.name for each in Path(path).parent.iterdir())
    assert names == ["live.checkpoint", "live.checkpoint.lock"]
