"""Each benchmark runs to its end and prints its ratios; their short form, for CI."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.long


@pytest.mark.parametrize(
    ("only", "wanted"),
    [
        ("backlog", r"job .* = \d\.\d\d of its time, \d\.\d\d of its CPU"),
        ("files", r"job .* = \d\.\d\d of its time, \d\.\d\d of its CPU"),
        ("speed", r"job .* = \d\.\d\d of the loop"),
        ("live", r"loop .* job = \d\.\d\d of it"),
    ],
)
def test_a_benchmark_prints_its_ratios(
    only: str, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--readings=40000", "--naive_readings=2000", "--rounds=1"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", f"--only={only}", *few],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    with capsys.disabled():
        print("", *done.stdout.splitlines(), sep="\n  ")
    if "not measured" in done.stdout:
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert re.search(wanted, done.stdout)
