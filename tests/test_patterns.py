"""No name, header, cell or line takes more time than its length is worth."""

import itertools
import re
import time
from pathlib import Path

import pytest

from pipeline.sources.formats import head, headers
from schemas.aliases import meaning, normalise, unit_in
from tests import patterns
from transforms import naming

ROOT = Path(__file__).parents[1]
# CPU seconds for a text of some thousand signs, a hundred times what the slowest pattern takes.
SECONDS = 0.1


@pytest.mark.parametrize("package", ["transforms", "schemas", "pipeline"])
def test_no_regular_expression_is_slow_on_a_text_made_for_it(package):
    found = list(patterns.found_in(ROOT / package))
    assert len(found) > 5
    slow = [
        said for one in found for said in itertools.islice(patterns.slow(one, 6_000, SECONDS), 1)
    ]
    assert not slow, "\n".join(slow)


@pytest.mark.parametrize(
    ("pattern", "method"),
    [
        (r"(?:[ _]?\d+)*", "fullmatch"),  # exponential
        (r"[ _]+\d{8}$", "sub"),  # square: begun again at every sign
        (r"\s*[+-]?\d+[.,]?\d*x", "fullmatch"),  # square
        (r"^\W*([^:]{2,60}?)\s*:", "match"),  # cube
    ],
)
def test_slow_ones_are_found(pattern, method):
    found = patterns.Found("here", re.compile(pattern), frozenset({method}))
    assert next(patterns.slow(found, 12_000, SECONDS), None)


LONG = 20_000
NAMES = [
    "1" * LONG + "x", "1 of " * LONG, " " * LONG + "x", "_1_1_11" * (LONG // 7) + "x",
    "_20240601" * (LONG // 9), "." * LONG, ".csv" * (LONG // 4), "(" * LONG + "1" * LONG,
    "(1)" * LONG, "_Wb_1" * LONG, "part1" * LONG, "_Channel_1" * LONG, "a/" * LONG, "\\" * LONG,
    "20240601120000123456_20240602120000123456_cellA.csv", "0123456789012345678901234A.csv",
    "/ " * LONG, "[" * LONG + "]", "a <" * LONG + ">", " _/," * LONG + "(V)", "x" * LONG + "(V)",
    "a" + "\u0301" * LONG + "\u0323" * LONG,  # accents that want to be put in order
    ": " * LONG, "ab" + " " * LONG + "x", "Today's Date" * LONG, "Date of Test: " + "1 " * LONG,
]  # fmt: skip
READERS = [
    naming.equipment_from_path, naming.source_file, naming.stem, naming.is_generic, naming.part_of,
    naming.folder_tells, naming.says_little, meaning, normalise,
    lambda name: unit_in(name, "current_a"), lambda name: head.read([name]),
    lambda name: headers.with_units(["Voltage"], [name]),
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:12])
def test_names_and_lines_of_any_length_are_read_in_time(name):
    for read in READERS:
        for text in (name, f"d/{name}", f"{name}.csv"):
            began = time.thread_time()
            read(text)
            assert time.thread_time() - began < 1.0, f"{read} for {len(text)} signs"


def test_names_of_columns_are_known_up_to_a_length_no_export_has():
    assert meaning(f"Voltage{' ' * 100}(mV)").field == "voltage_v"
    assert meaning(f"Voltage{' ' * 300}(mV)") is None
    assert meaning("a/b/c/d/e/f/g/h/i/j/Current/mA") is None
    assert meaning("Q charge/discharge/mA.h") is not None
