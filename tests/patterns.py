"""Finds the regular expressions of a package's source, and texts that could make them slow."""

from __future__ import annotations

import ast
import importlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from re import _constants as signs
from re import _parser
from typing import Any

METHODS = frozenset({"match", "search", "fullmatch", "sub", "split", "findall", "finditer"})
# Repeats up to this count are no growth.
FEW = 16
# What stands behind a pumped text so that a pattern that nearly fits does not.
ENDS = ("", "\x00", "x", "!", " ", "1", ")", "\n")


@dataclass(frozen=True)
class Found:
    """A regular expression, where it stands and how it is applied."""

    place: str
    pattern: re.Pattern[Any]
    methods: frozenset[str]


def found_in(package: Path) -> Iterator[Found]:
    """Every regular expression in the Python files below a folder; names are taken from modules."""
    for path in sorted(package.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.Name) and node.id == "re" for node in ast.walk(tree)):
            yield from _in_module(path, package.parent, tree)


def _in_module(path: Path, root: Path, tree: ast.Module) -> Iterator[Found]:
    name = ".".join(path.relative_to(root).with_suffix("").parts)
    if name.endswith("__main__"):
        return
    names = vars(importlib.import_module(name))
    used = _used(tree)
    named = {
        id(node.value): target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for function in ast.walk(tree):  # what a function does with a pattern that it is given
        if isinstance(function, ast.FunctionDef):
            inside = _used(function)
            for call in ast.walk(tree):
                match call:
                    case ast.Call(func=ast.Name(id=called), args=args) if called == function.name:
                        for parameter, given in zip(function.args.args, args, strict=False):
                            if isinstance(given, ast.Name) and parameter.arg in inside:
                                used.setdefault(given.id, set()).update(inside[parameter.arg])
    # A pattern in a list or handed to a function is applied there by another name.
    elsewhere = set().union(*(used[other] for other in used if not other.isupper()), set())
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="re"), attr=attr), args=[text, *_]):
                pass
            case _:
                continue
        place = f"{path.relative_to(root)}:{node.lineno}"
        if attr == "compile":
            try:
                pattern = eval(compile(ast.Expression(node), name, "eval"), dict(names))
            except NameError:  # of a function's own names
                continue
            own = used.get(named.get(id(node), ""), set()) or elsewhere or {"search"}
            yield Found(place, pattern, frozenset(own))
        elif attr in METHODS and isinstance(text, ast.Constant):
            flags = re.IGNORECASE if "IGNORECASE" in ast.dump(node) else 0
            yield Found(place, re.compile(text.value, flags), frozenset({attr}))


def _used(tree: ast.AST) -> dict[str, set[str]]:
    """Names with the methods of a regular expression that are called on them."""
    used: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attr) if attr in METHODS:
                if name != "re":
                    used.setdefault(name, set()).add(attr)
    return used


def attacks(pattern: re.Pattern[Any]) -> list[tuple[str, str]]:
    """Texts to put before and to repeat, from the pattern's own repeats; bytes as Latin-1."""
    shown = pattern.pattern
    tree = _parser.parse(shown, pattern.flags & ~re.DEBUG)
    pumps: dict[tuple[str, str], None] = {}
    _pumps(tree, "", pumps)
    whole = _sample(tree)
    texts = {pump for _, pump in pumps} | {whole}
    # What begins again and again, for a search that starts at every place.
    for end in range(1, min(len(whole), 24) + 1):
        texts.add(whole[:end])
    for sign in (" ", "1", "_", "(", "a", ".", "/", "1 ", "_1", "a1", "(1", " ("):
        texts.add(sign)
    for text in sorted(texts):
        pumps.setdefault(("", text))
    return [(before, pump) for before, pump in pumps if pump]


def _pumps(tree: Any, before: str, pumps: dict[tuple[str, str], None]) -> str:
    for op, value in tree:
        if op in (signs.MAX_REPEAT, signs.MIN_REPEAT, signs.POSSESSIVE_REPEAT):
            _, most, body = value
            if most == signs.MAXREPEAT or most > FEW:
                for sample in _samples(body):
                    pumps.setdefault((before, sample))
            _pumps(body, before, pumps)
        elif op is signs.SUBPATTERN:
            _pumps(value[3], before, pumps)
        elif op is signs.ATOMIC_GROUP:
            _pumps(value, before, pumps)
        elif op is signs.BRANCH:
            for branch in value[1]:
                _pumps(branch, before, pumps)
        elif op in (signs.ASSERT, signs.ASSERT_NOT):
            _pumps(value[1], before, pumps)
        before += _sample([(op, value)])
    return before


def _samples(tree: Any) -> list[str]:
    """Some short texts that a piece takes: the usual one, twice, and one a branch."""
    usual = _sample(tree)
    found = {usual, usual + usual}
    for op, value in tree:
        if op is signs.BRANCH:
            found |= {_sample(branch) for branch in value[1]}
        elif op is signs.SUBPATTERN:
            found |= set(_samples(value[3]))
        elif op is signs.IN:
            found |= {_sign([one]) for one in value}
    return sorted(found - {""}) or [usual]


def _sample(tree: Any) -> str:
    text = ""
    for op, value in tree:
        if op is signs.LITERAL:
            text += chr(value)
        elif op is signs.NOT_LITERAL:
            text += "a" if value != ord("a") else "b"
        elif op is signs.ANY:
            text += "a"
        elif op is signs.IN:
            text += _sign(value)
        elif op in (signs.MAX_REPEAT, signs.MIN_REPEAT, signs.POSSESSIVE_REPEAT):
            least, most, body = value
            text += _sample(body) * max(least, min(1, most))
        elif op is signs.SUBPATTERN:
            text += _sample(value[3])
        elif op is signs.ATOMIC_GROUP:
            text += _sample(value)
        elif op is signs.BRANCH:
            text += _sample(value[1][0])
    return text


_CLASSES = {
    signs.CATEGORY_DIGIT: "1",
    signs.CATEGORY_NOT_DIGIT: "a",
    signs.CATEGORY_SPACE: " ",
    signs.CATEGORY_NOT_SPACE: "a",
    signs.CATEGORY_WORD: "a",
    signs.CATEGORY_NOT_WORD: " ",
}


def _sign(members: Any) -> str:
    """A sign of a set."""
    if members[0][0] is signs.NEGATE:
        for sign in "a1 _-x;\x01é":
            if not any(_has(member, sign) for member in members[1:]):
                return sign
        return "é"
    op, value = members[0]
    if op is signs.LITERAL:
        return chr(value)
    if op is signs.RANGE:
        return chr(value[0])
    return _CLASSES.get(value, "a")


def _has(member: Any, sign: str) -> bool:
    op, value = member
    if op is signs.LITERAL:
        return chr(value) == sign
    if op is signs.RANGE:
        return value[0] <= ord(sign) <= value[1]
    known = {
        signs.CATEGORY_DIGIT: sign.isdigit(),
        signs.CATEGORY_SPACE: sign.isspace(),
        signs.CATEGORY_WORD: sign.isalnum() or sign == "_",
        signs.CATEGORY_NOT_DIGIT: not sign.isdigit(),
        signs.CATEGORY_NOT_SPACE: not sign.isspace(),
        signs.CATEGORY_NOT_WORD: not (sign.isalnum() or sign == "_"),
    }
    return known.get(value, False)


def slow(found: Found, longest: int, seconds: float) -> Iterator[str]:
    """The texts with which a pattern takes longer than `seconds` before they are `longest` long.

    Texts grow step by step, and a text's growth ends at the first that is too slow, so that an
    exponential pattern shows within a second.
    """
    for before, pump in attacks(found.pattern):
        for method in sorted(found.methods):
            said = _too_slow(found, method, before, pump, longest, seconds)
            if said is not None:
                yield said


def _too_slow(
    found: Found, method: str, before: str, pump: str, longest: int, seconds: float
) -> str | None:
    size = 16
    while True:
        text = before + pump * (size // len(pump) + 1)
        for end in ENDS if size < 100 else ENDS[1:3]:
            took = _time(found.pattern, method, text + end)
            if took > seconds:  # once more: another process may have had the core
                took = _time(found.pattern, method, text + end)
            if took > seconds:
                return (
                    f"{found.place} .{method}: {took:.2f} s for {before!r} + {pump!r} x "
                    f"{size // len(pump) + 1} + {end!r}"
                )
        if size >= longest:
            return None
        # Slowly where an exponential one would explode, then so that a cube ends within a second.
        size = size + 6 if size < 40 else min(size * 6, longest)


def _time(pattern: re.Pattern[Any], method: str, text: str) -> float:
    given: Any = text
    if isinstance(pattern.pattern, bytes):
        given = text.encode("latin-1", "replace")
    called = getattr(pattern, method)
    began = time.thread_time()
    if method == "sub":
        called(b"" if isinstance(given, bytes) else "", given)
    elif method == "finditer":
        list(called(given))
    else:
        called(given)
    return time.thread_time() - began
