"""What was recorded of each release, and how the job of today stands to it."""

from __future__ import annotations

import ast
import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.stable.compare import Difference, Verdict, differences
from tests.stable.fingerprint import Fingerprint, fingerprint
from tests.stable.graphs import CONFIGURATIONS, built
from tests.stable.scenes import SCENES
from tests.stable.values import coders_of, sample, shown

FOLDER = Path(__file__).parent / "releases"
_SETUP = Path(__file__).parents[2] / "setup.py"
# Beside a file for each graph.
_KEPT, _UPDATES = "kept", "updates"
# Dataflow looks at a coder's name and tag, not at what it writes.
_READ_BOTH = "read the old form too; or give its coder another version_tag(), drain and restart"


@dataclass(frozen=True)
class Release:
    """A release, recorded or to be.

    Attributes:
        version: as setup.py says it.
        folder: of its record.
    """

    version: str
    folder: Path

    def graphs(self) -> dict[str, Fingerprint]:
        """By configuration its fingerprint."""
        names = sorted(path.stem for path in self.folder.glob("*.json"))
        return {name: self._read(name) for name in names if name not in (_KEPT, _UPDATES)}

    def kept(self) -> dict[str, Any]:
        """`scenes`: by scene the bytes of its states; `values`: by coder a value, as `encoded`."""
        return self._read(_KEPT)

    def updates(self) -> dict[str, dict[str, list[dict[str, str]]]]:
        """By earlier release and configuration what whoever updates from it has to know."""
        return self._read(_UPDATES)

    def _read(self, name: str) -> Any:
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text("utf-8")) if path.exists() else {}

    def write(self, name: str, content: Any) -> None:
        """Writes a file of the record."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)
        (self.folder / f"{name}.json").write_text(f"{text}\n", "utf-8")

    def forget(self) -> None:
        """Removes the record."""
        for path in self.folder.glob("*.json"):
            path.unlink()

    def differences(self) -> dict[str, list[Difference]]:
        """By configuration how its graph differs from that of today's code for the same flags."""
        return {
            name: differences(old, fingerprint(built(old["engine"], tuple(old["flags"]))))
            for name, old in self.graphs().items()
        }

    def not_survived(self) -> Iterator[Difference]:
        """What of its state today's code can't use as its own."""
        kept = self.kept()
        for name, states in kept.get("scenes", {}).items():
            yield from _survives(f"state of scene {name}", partial(_replayed, name, states))
        coders = _coders()
        for text, encoded in kept.get("values", {}).items():
            if text in coders:
                check = partial(_decoded, coders[text], encoded)
                yield from _survives(f"values of {text}", check)


def _survives(what: str, check: Callable[[], str | None]) -> Iterator[Difference]:
    try:
        why = check()
    except Exception as error:  # whatever a step raises that is given what it does not know
        why = f"{type(error).__name__}: {error}"
    if why is not None:
        yield Difference(Verdict.BREAKS, what, why, _READ_BOTH)


def _replayed(name: str, states: dict[str, str]) -> str | None:
    """A job that resumes with recorded state has to give what one gives that never stopped."""
    scene = SCENES.get(name)
    if scene is None:
        return "there is no such scene any more; is the step gone?"
    kept = {state: base64.b64decode(data) for state, data in states.items()}
    wanted, found = (scene.after(scene, each) for each in (scene.before(scene), kept))
    return None if found == wanted else f"gives {found}, not {wanted}"


def _decoded(coder: Any, encoded: dict[str, Any]) -> str | None:
    found = shown(coder.decode_nested(base64.b64decode(encoded["bytes"])))
    return None if found == encoded["value"] else f"decodes to {found}, was {encoded['value']}"


def _coders() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for configuration in CONFIGURATIONS.values():
        found |= coders_of(built(*configuration))
    return found


def keep() -> dict[str, Any]:
    """What `Release.kept` is to give, of today's code."""

    def text(data: bytes) -> str:
        return base64.b64encode(data).decode()

    scenes = {
        name: {state: text(data) for state, data in scene.before(scene).items()}
        for name, scene in SCENES.items()
    }
    values = {}
    for name, coder in _coders().items():
        value = sample(coder)
        values[name] = {"bytes": text(coder.encode_nested(value)), "value": shown(value)}
    return {"scenes": scenes, "values": values}


def current() -> Release:
    """That of today's setup.py."""
    for node in ast.walk(ast.parse(_SETUP.read_text("utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "version":
            version = ast.literal_eval(node.value)
            return Release(version, FOLDER / version)
    raise ValueError(f"{_SETUP}: names no version")


def recorded() -> list[Release]:
    """All that have a record, the oldest first."""
    folders = [path for path in FOLDER.iterdir() if path.is_dir()] if FOLDER.exists() else []
    folders.sort(key=lambda path: [int(part) for part in path.name.split(".")])
    return [Release(path.name, path) for path in folders]


def to_know(release: Release) -> dict[str, list[Difference]]:
    """By configuration, and for its state as `state`, what an update from a release meets."""
    found = {
        name: [each for each in given if each.verdict is not Verdict.FINE]
        for name, given in release.differences().items()
    }
    found["state"] = list(release.not_survived())
    return {name: given for name, given in found.items() if given}


def told(release: Release, found: dict[str, list[Difference]]) -> str:
    """The same for people, with what to do."""
    lines = [f"a job of release {release.version} can't be updated in place to this code:"]
    for name, given in found.items():
        lines += [f"{name}:", *(f"  {each.line}" for each in given)]
    lines.append(
        "Undo that; or raise `version` in setup.py and run python -m tests.stable.record, which "
        f"writes down what whoever runs {release.version} has to do (deploy/RUNBOOK.md, Update in "
        "place)."
    )
    return "\n".join(lines)
