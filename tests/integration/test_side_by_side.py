"""The models' figures beside those of cellpy, PyProBE, BEEP and rainflow, on the same files.

Each tool runs in an environment of its own. `python -m tests.peers` prints the same as a table.
"""

from __future__ import annotations

import pytest

from tests.calce import calce_dir
from tests.peers.inputs import CALCE
from tests.peers.making import calce_sides, made_sides
from tests.peers.sides import COMPARISONS, Sides
from tests.services.fixtures import available

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sides]:
    return made_sides(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sides]:
    return calce_sides(tmp_path_factory.mktemp("calce"), calce_dir() / "CS2_35.zip")


@pytest.mark.parametrize(
    ("cell", "what", "tool"),
    [
        pytest.param(
            *comparison,
            marks=[pytest.mark.calce] if comparison[0] in CALCE else [],
            id="-".join(comparison).replace(" ", "_"),
        )
        for comparison in COMPARISONS
    ],
)
def test_side_by_side(request: pytest.FixtureRequest, cell: str, what: str, tool: str) -> None:
    sides = request.getfixturevalue("real" if cell in CALCE else "made")
    lines = available(sides[cell].compare, what, tool)
    print(*lines, sep="\n")
    assert lines
    assert all(line.agrees for line in lines), "\n".join(map(str, lines))
