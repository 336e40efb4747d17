"""python -m tests.peers: all tools side by side, as a Markdown table on standard output."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from tests.calce import calce_dir
from tests.peers.making import calce_sides, made_sides
from tests.peers.sides import COMPARISONS, Line, table
from tests.services.processes import Unavailable


def main() -> int:
    """Prints the table, and on standard error what is missing in it; 1 if anything disagrees."""
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as folder:
        sides = made_sides(Path(folder) / "made")
        try:
            sides |= calce_sides(Path(folder) / "calce", calce_dir() / "CS2_35.zip")
        except pytest.skip.Exception as reason:
            print(reason, file=sys.stderr)
        for cell, what, tool in COMPARISONS:
            if cell in sides:
                try:
                    lines += sides[cell].compare(what, tool)
                except Unavailable as reason:
                    print(f"{cell}, {what}, {tool}: {reason}", file=sys.stderr)
    print(table(lines))
    for line in lines:
        if not line.agrees:
            print(line, file=sys.stderr)
    return int(not all(line.agrees for line in lines))


if __name__ == "__main__":
    sys.exit(main())
