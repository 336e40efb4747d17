"""Files that ask for too much, all in one folder with a good one: the job ends, and names each."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import psutil
import pytest

from tests.hostile import AT_USUAL_LIMITS

pytestmark = pytest.mark.long

MOST_BYTES = 1_500_000_000
MOST_S = 60.0
GOOD_ROWS = 1000


def run(folder: Path) -> tuple[int, str, float, int]:
    """Runs the job on `folder/in`: exit status, what it printed, seconds, bytes at the most."""
    command = [
        sys.executable, "-m", "pipeline", f"--source={folder / 'in'}", f"--lake={folder / 'lake'}",
        f"--warehouse=duckdb:{folder / 'w.duckdb'}", "--no_progress",
    ]  # fmt: skip
    began = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
    )
    peak = [0]

    def watch() -> None:
        while process.poll() is None:
            peak[0] = max(peak[0], resident(process.pid))
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    printed, _ = process.communicate(timeout=10 * MOST_S)
    watcher.join()
    return process.returncode, printed, time.monotonic() - began, peak[0]


def resident(pid: int) -> int:
    """Bytes of a process and its children."""
    try:
        process = psutil.Process(pid)
        return sum(each.memory_info().rss for each in [process, *process.children(recursive=True)])
    except psutil.NoSuchProcess:
        return 0


def good_file(folder: Path) -> None:
    rows = [
        f"2024-06-01T12:{second // 60:02d}:{second % 60:02d}Z,3.7,1.0"
        for second in range(GOOD_ROWS)
    ]
    folder.mkdir(parents=True)
    lines = ["recorded_at,voltage_v,current_a", *rows]
    (folder / "good_cell.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("hostile", AT_USUAL_LIMITS, ids=lambda hostile: hostile[0])
def test_a_hostile_file_is_named_and_its_neighbour_is_written(
    tmp_path: Path, hostile: tuple[str, object, tuple[str, ...]]
) -> None:
    name, make, errors = hostile
    good_file(tmp_path / "in")
    assert callable(make)
    (tmp_path / "in" / name).write_bytes(make())
    status, printed, seconds, peak = run(tmp_path)
    print(json.dumps({"file": name, "status": status, "s": round(seconds), "MB": peak // 10**6}))
    with duckdb.connect(str(tmp_path / "w.duckdb"), read_only=True) as warehouse:
        good = warehouse.execute(
            "SELECT count(*) FROM readings WHERE equipment_id = 'good_cell'"
        ).fetchone()
        letters = warehouse.execute(
            "SELECT error_type, source_file, position FROM dead_letters"
        ).fetchall()
    assert good == (GOOD_ROWS,), printed
    assert {letter[0] for letter in letters} <= set(errors), letters[:3]
    assert bool(letters) == bool(errors)
    assert all(letter[1] for letter in letters)
    assert status == (1 if "gave no reading" in printed else 0)
    assert "Traceback" not in printed
    assert peak < MOST_BYTES
    assert seconds < 3 * MOST_S  # beside other tests; alone each takes less than one minute
