"""Where TMPDIR is full or gone, the job ends with a line that says so; no file is refused for it."""

from __future__ import annotations

import io
import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import failures
from pipeline.engines.local.spill import SpillStore
from pipeline.errors import JobFailed, SourceFailed, SpillFailed
from pipeline.publishing.merge import TimeOrder
from pipeline.scratch import folder
from pipeline.sinks.lake.files_as_they_are import _here
from pipeline.sources.files.source import FileSource
from pipeline.sources.formats import delimited, tables
from tests.fuzz.doors.files import _ndas, _ndaxes, _zip

from .sources.reading import read, run

# A counter for both directions, so that its rows are read in order.
ROWS = "Test Time(s),Current(A),Voltage(V),Capacity(mAh)\n" + "".join(
    f"{second},{1 if second < 9_000 else -1},3.7,{second % 9_000 / 3.6:.4f}\n"
    for second in range(0, 18_000, 10)
)


@contextmanager
def full() -> Iterator[None]:
    """Within it no file takes more than a few bytes, as on a disk that has no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def gone() -> Iterator[None]:
    """Within it the folder that TMPDIR named is not there any more."""
    before, tempfile.tempdir = tempfile.tempdir, "/nowhere"
    try:
        yield
    finally:
        tempfile.tempdir = before


@pytest.fixture(autouse=True)
def _cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "PIECE_BYTES", 0)


def file_of(name: str) -> bytes:
    match name:
        case "cell.csv":
            return ROWS.encode()
        case "cells.zip":
            return _zip({"lab/cell.csv": ROWS.encode()})
        case "cell.nda":
            return _ndas()[-2]
    return _ndaxes()[-1]


@pytest.mark.parametrize("lost", [full, gone])
@pytest.mark.parametrize("name", ["cell.csv", "cells.zip", "cell.nda", "cell.ndax"])
def test_a_file_is_not_refused_for_it(
    tmp_path: Path, name: str, lost: Callable[[], contextmanager[None]]
) -> None:
    path = tmp_path / name
    path.write_bytes(file_of(name))
    with pytest.raises(SpillFailed, match=r"^TMPDIR: ") as raised, lost():
        read(path)
    fix = "raise the limit on the size" if lost is full else "put the folder back"
    assert fix in str(raised.value)
    assert str(raised.value).endswith("then run the job again; TMPDIR may name another folder")


def test_a_copy_of_a_bucket_s_file(tmp_path: Path) -> None:
    for lost in (full, gone):
        with (
            pytest.raises(SpillFailed, match=r"^TMPDIR: a copy of gs://bucket/a.csv in "),
            lost(),
            _here("gs://bucket/a.csv", io.BytesIO(bytes(1_000))),
        ):
            pass
    with _here("gs://bucket/a.csv", io.BytesIO(b"x" * 1_000)) as (file, _):
        file.seek(0)
        assert file.read() == b"x" * 1_000


def test_the_local_runner_s_file() -> None:
    with pytest.raises(SpillFailed, match=r"^TMPDIR: the local runner's file in /nowhere "), gone():
        SpillStore()
    store = SpillStore()
    with pytest.raises(SpillFailed, match=r"can't be written \(File too large\)"), full():
        store.put(pa.py_buffer(bytes(100_000)))
    handle = store.put(pa.py_buffer(bytes(100_000)))
    assert store.get(handle).size == 100_000
    store._file.truncate(0)
    with pytest.raises(SpillFailed, match=r"can't be read \(it ends early\)"):
        store.get(handle)
    store.close()


def test_the_job_ends_with_one_line(tmp_path: Path) -> None:
    path = tmp_path / "cell.csv"
    path.write_text(ROWS)
    with pytest.raises(Exception) as raised, full():  # noqa: PT011 - the runner's
        run(FileSource(str(path), str(path)))
    assert failures.line(raised.value) == (
        f"TMPDIR: the rows of {path} in {tempfile.gettempdir()} can't be written (File too large); "
        "raise the limit on the size of a file (ulimit -f), then run the job again; TMPDIR may "
        "name another folder"
    )


def test_a_disk_that_fails_in_an_archive_is_everybodys_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cells.zip"
    path.write_bytes(file_of("cells.zip"))

    def fails(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(delimited, "read", fails)
    with pytest.raises(SourceFailed, match=r"lab/cell.csv can't be read: OSError") as raised:
        read(path)
    assert isinstance(raised.value, JobFailed)


def test_what_is_put_in_order_before_it_is_published(tmp_path: Path) -> None:
    table = pa.table({"due_us": pa.array(range(50_000, 0, -1), pa.int64())})
    with pytest.raises(SpillFailed, match=r"^TMPDIR: the messages in order of time in "), full():
        TimeOrder(tmp_path).add([table])
    order = TimeOrder(tmp_path)
    order.add([table])
    for run_of in tmp_path.iterdir():
        run_of.unlink()
    with pytest.raises(SpillFailed, match=r"can't be read \("):
        list(order.tables())
    with pytest.raises(SpillFailed, match="in /nowhere can't be written"), gone(), folder("x", "y"):
        pass
