"""The house is as the README draws it: imports run one way, and runners have a room of their own."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests import house
from tests.house import REST, Drawing

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BEGINS = "Imports between the rooms of `pipeline/`"
RUNNERS = re.compile(
    r"apache_beam\.runners|(?i:dataflow|flink|prism|\w*(?:direct|fnapi|portable)_?runner)"
)
ENGINES = ROOT / "pipeline" / "engines"
# What others may ask the engines' room for; its other files are one engine's own.
ASKED = {"checkpointed", "choose", "logs", "polling", "properties", "results", "stable"}


def drawn() -> Drawing:
    _, _, after = README.partition(BEGINS)
    return Drawing.parse(after.split("```")[1])


def test_rooms_import_what_is_drawn_and_nothing_else() -> None:
    drawing = drawn()
    real = house.arrows(ROOT, drawing)
    told = []
    for room in sorted(drawing.uses.keys() | real.keys()):
        lines = drawing.uses.get(room, frozenset())
        told += [
            f"not drawn: {room} → {other} ({places[0]})"
            for other, places in sorted(real.get(room, {}).items())
            if other not in lines
        ]
        told += [
            f"drawn in vain: {room} → {other}" for other in sorted(lines - set(real.get(room, {})))
        ]
        told += [] if room in real else [f"no such room: {room}"]
    assert not told, "\n".join(told)


def test_every_folder_is_a_room() -> None:
    drawing = drawn()
    pipeline = ROOT / "pipeline"
    systems = [
        f"{kind}/{path.name}"
        for kind in ("sources", "sinks")
        for path in (pipeline / kind).iterdir()
        if (path / "__init__.py").exists()
    ]
    assert sorted(systems) == sorted(room for room in drawing.uses if "/" in room)
    for folder in pipeline.rglob("__init__.py"):
        first = (folder.read_text("utf-8") or "-").splitlines()[0]
        assert re.match(r'"""[A-Z].{20,}', first), f"{folder}: says not what the room is for"


def test_imports_run_one_way() -> None:
    drawing = drawn()
    assert house.circle(drawing.uses) == []
    # Each room is drawn above those that it imports.
    order = list(drawing.uses)
    for room, uses in drawing.uses.items():
        assert all(order.index(other) > order.index(room) for other in uses), room
    assert not any(REST in uses for uses in drawing.uses.values())


@pytest.mark.parametrize("package", house.PACKAGES)
def test_packages_import_those_below_them(package: str) -> None:
    known = house.files(ROOT)
    above = house.PACKAGES[: house.PACKAGES.index(package)]
    upwards = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for module, path in known.items()
        if module.split(".")[0] == package
        for name, line in house.imports(ast.parse(path.read_text("utf-8")), known)
        if name.split(".")[0] in (*above, "tests")
    ]
    assert not upwards, "\n".join(upwards)


def outside() -> list[tuple[Path, ast.Module]]:
    """Every file of the packages that is not the engines'."""
    return [
        (path.relative_to(ROOT), ast.parse(path.read_text("utf-8")))
        for path in house.files(ROOT).values()
        if not path.is_relative_to(ENGINES)
    ]


def test_no_runner_is_named_or_imported_outside_the_engines_room() -> None:
    found = [
        f"{path}:{line}: {word}"
        for path, tree in outside()
        for word, line in house.words(tree)
        if RUNNERS.search(word)
    ]
    assert not found, "\n".join(found)


def test_others_ask_the_engines_room_and_not_an_engine() -> None:
    known = house.files(ROOT)
    found = []
    for path, tree in outside():
        for name, line in house.imports(tree, known):
            inner = name.removeprefix("pipeline.engines.").split(".")[0]
            if name.startswith("pipeline.engines.") and inner not in ASKED:
                found.append(f"{path}:{line}: {name}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("from apache_beam.runners.runner import PipelineResult", "apache_beam.runners.runner"),
        ("import apache_beam.runners.direct", "apache_beam.runners.direct"),
        ("run('--runner=DirectRunner')", "--runner=DirectRunner"),
        ("def f():\n    return FnApiRunner()", "FnApiRunner"),
        ("def is_dataflow(): 'On Flink.'", "is_dataflow"),
        ("f'only on Flink: {x}'", "only on Flink: "),
    ],
)
def test_what_names_a_runner_is_found(code: str, word: str) -> None:
    assert word in {w for w, _ in house.words(ast.parse(code)) if RUNNERS.search(w)}


def test_what_is_said_of_runners_is_no_name() -> None:
    said = '"""For Flink."""\nclass A:\n    """On Dataflow."""\n    x = 1  # Prism keeps it'
    assert not [w for w, _ in house.words(ast.parse(said)) if RUNNERS.search(w)]


HOUSE = {
    "pipeline/__init__.py": "",
    "pipeline/run.py": "from pipeline.sinks import lake\nfrom pipeline.clock import now",
    "pipeline/clock.py": "import time",
    "pipeline/sinks/__init__.py": "",
    "pipeline/sinks/lake.py": "def f():\n    from pipeline import clock",
}


def built(tmp_path: Path, **changed: str) -> Path:
    for name, text in {**HOUSE, **changed}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_the_real_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    drawing = Drawing.parse("commands → sinks clock\nsinks → clock\nclock → nothing")
    real = house.arrows(built(tmp_path), drawing)
    uses = {room: frozenset(others) for room, others in real.items()}
    assert uses == drawing.uses
    assert real["sinks"]["clock"] == ["pipeline/sinks/lake.py:2: pipeline.clock"]
    grouped = Drawing.parse("commands (run clock) → sinks\nsinks → commands")
    assert set(house.arrows(tmp_path, grouped)["sinks"]) == {"commands"}
    assert house.circle(grouped.uses) == ["commands", "sinks"]


@pytest.mark.parametrize("text", ["sinks clock", "sinks → a\nsinks → b", "sinks ->  clock"])
def test_a_line_that_is_none_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="not a line of the drawing"):
        Drawing.parse(text)
