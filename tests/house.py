"""Reads the house: its rooms as the README draws them, and what its files really import and name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("pipeline", "transforms", "schemas")
# The room of whatever lies on the ground of pipeline/ and the drawing does not name.
REST = "commands"
_LINE = re.compile(r"(?P<room>[\w/]+)(?: \((?P<files>[\w ]+)\))? +→ (?P<uses>[\w/ ]+)")


@dataclass(frozen=True)
class Drawing:
    """The imports between rooms, as lines draw them.

    Attributes:
        uses: by room, the rooms that it imports.
        files: files and folders on the ground of pipeline/, each with its room.
    """

    uses: Mapping[str, frozenset[str]]
    files: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> Drawing:
        """Reads lines such as `options (options failures) → engines ground`; indented, they go on.

        ValueError: a line that is none, or a room that is drawn twice.
        """
        uses, files = {}, {}
        for line in re.sub(r"\n +", " ", text.strip()).splitlines():
            found = _LINE.fullmatch(line.rstrip())
            if found is None or found["room"] in uses:
                raise ValueError(f"not a line of the drawing: {line}")
            uses[found["room"]] = frozenset(found["uses"].split()) - {"nothing"}
            files |= dict.fromkeys((found["files"] or "").split(), found["room"])
        return cls(uses, files)

    def room(self, file: str) -> str:
        """The room of a file of pipeline/, by its path below it: the longest that is drawn."""
        parts = file.removesuffix(".py").removesuffix("/__init__").split("/")
        for end in range(len(parts), 0, -1):
            name = "/".join(parts[:end])
            if name in self.files or name in self.uses:
                return self.files.get(name, name)
        return REST


def files(root: Path) -> dict[str, Path]:
    """Every module of the packages with its file."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imports(tree: ast.AST, known: Mapping[str, Path]) -> Iterator[tuple[str, int]]:
    """What a file imports, wherever in it, with the line; modules of the house by their own name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                yield each.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module:
            for each in node.names:
                name = f"{node.module}.{each.name}"
                yield (name if name in known else node.module), node.lineno


def arrows(root: Path, drawing: Drawing) -> dict[str, dict[str, list[str]]]:
    """By room, the rooms of pipeline/ that it imports, each with the places."""
    known = files(root)
    below = {name: path for name, path in known.items() if name.startswith("pipeline.")}
    found: dict[str, dict[str, list[str]]] = {}
    for path in below.values():
        own = drawing.room(path.relative_to(root / "pipeline").as_posix())
        uses = found.setdefault(own, {})
        for name, line in imports(ast.parse(path.read_text("utf-8")), known):
            if name in below:
                other = drawing.room(below[name].relative_to(root / "pipeline").as_posix())
                if other != own:
                    uses.setdefault(other, []).append(f"{path.relative_to(root)}:{line}: {name}")
    return found


def circle(uses: Mapping[str, frozenset[str]]) -> list[str]:
    """The rooms that are left when those are taken away whose imports are all taken away."""
    left = set(uses)
    while gone := {room for room in left if not uses[room] & left}:
        left -= gone
    return sorted(left)


def words(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names and texts of the code, with the line; not what is said in docstrings and comments."""
    said = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        for field, value in ast.iter_fields(node):
            if id(node) in said or not isinstance(value, str) or field == "kind":
                continue
            yield value, getattr(node, "lineno", 0)
