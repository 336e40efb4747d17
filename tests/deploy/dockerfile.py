"""Carries out a Dockerfile's own lines below a folder, without a container engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import string
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

# Where an image would have these at its root, the folder has them.
_FOLDERS = re.compile(r"(?<![\w.$}/-])/(?:opt|src|template)(?=[/\s:\"]|$)")
# How this machine reaches its package index; nothing else of its environment is taken along.
_INDEX = re.compile(r"PIP_\w+|\w+_proxy|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|HOME", re.IGNORECASE)


@dataclass(frozen=True)
class Instruction:
    """One instruction, its continued lines joined: `COPY` and `setup.py /src/`."""

    name: str
    text: str


def instructions(path: Path) -> list[Instruction]:
    """A Dockerfile's instructions in their order, without comments."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        Instruction(name.upper(), text.strip())
        for name, _, text in (line.partition(" ") for line in joined.splitlines() if line.strip())
    ]


def stages(found: list[Instruction]) -> tuple[dict[str, str], list[list[Instruction]]]:
    """The build arguments before the first FROM, and the instructions of every stage."""
    arguments: dict[str, str] = {}
    parts: list[list[Instruction]] = []
    for one in found:
        if one.name == "FROM":
            parts.append([])
        elif one.name == "ARG" and not parts:
            name, _, value = one.text.partition("=")
            arguments[name] = value
        if parts:
            parts[-1].append(one)
    return arguments, parts


def ignored(path: str, patterns: list[str]) -> bool:
    """Whether a `.dockerignore` keeps the file out of the build; the last match counts."""
    parents = ["/".join(path.split("/")[:depth]) for depth in range(1, path.count("/") + 2)]
    out = False
    for pattern in patterns:
        glob = pattern.removeprefix("!").removeprefix("**/")
        anywhere = "**/" in pattern
        names = [each.rpartition("/")[2] for each in parents] if anywhere else parents
        if any(fnmatch(name, glob) for name in names):
            out = not pattern.startswith("!")
    return out


class Build:
    """An image's last stage, built below `root`; what its base would hold is this Python alone.

    Attributes:
        environment: of what runs in the image, paths below `root`.
        folder: the working directory.
        entrypoint: the image's.
    """

    def __init__(self, context: Path, root: Path) -> None:
        self.root = root
        self._context = context
        lines = (context / ".dockerignore").read_text().splitlines()
        self._ignore = [line for line in lines if line and not line.startswith("#")]
        base = root / "base"
        base.mkdir(parents=True)
        # Not a link: an environment made by one would look for the library beside it.
        python = base / "python"
        python.write_text(f'#!/bin/sh\nexec "{Path(sys.base_prefix, "bin", "python3.11")}" "$@"\n')
        python.chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if _INDEX.fullmatch(name)}
        self.environment = {**kept, "PATH": f"{base}:/usr/bin:/bin", "LANG": "C.UTF-8"}
        self.folder = root
        self.entrypoint: list[str] = []

    def run(self, stage: list[Instruction]) -> None:
        """Carries out the stage.

        Raises:
            ValueError: an instruction this does not know, or a COPY of what the build can't see.
            subprocess.CalledProcessError: a command failed; its output is in the message's notes.
        """
        known = {"ENV": self._env, "WORKDIR": self._workdir, "COPY": self._copy, "RUN": self._run,
                 "ENTRYPOINT": self._entrypoint}  # fmt: skip
        for one in stage:
            if one.name == "FROM" or one.text.startswith("--from="):
                continue
            if one.name not in known:
                raise ValueError(f"{one.name} {one.text}: not known here")
            known[one.name](one.text)

    def below(self, text: str) -> str:
        """The text with the image's folders put below `root`."""
        return _FOLDERS.sub(lambda match: f"{self.root}{match.group()}", text)

    def sh(self, command: str) -> str:
        """What a command prints that runs in the image; its failure is raised with that."""
        done = subprocess.run(
            ["/bin/sh", "-c", self.below(command)],
            cwd=self.folder, env=self.environment, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if done.returncode:
            error = subprocess.CalledProcessError(done.returncode, command)
            error.add_note((done.stdout + done.stderr)[-3000:])
            raise error
        return done.stdout

    def _env(self, text: str) -> None:
        # An instruction sees the environment before it.
        before = dict(self.environment)
        for name, value in re.findall(r"(\w+)=(\S+)", text):
            self.environment[name] = string.Template(self.below(value)).substitute(before)

    def _workdir(self, text: str) -> None:
        self.folder = Path(self.below(text))
        self.folder.mkdir(parents=True, exist_ok=True)

    def _copy(self, text: str) -> None:
        *sources, given = text.split()
        target = Path(self.below(given))
        for source in sources:
            into = target / source if given.endswith("/") else target
            found = self._context / source
            files = sorted(found.rglob("*")) if found.is_dir() else [found]
            seen = [
                file for file in files if file.is_file()
                and not ignored(file.relative_to(self._context).as_posix(), self._ignore)
            ]  # fmt: skip
            if not seen:
                raise ValueError(f"COPY {text}: {source} is missing, or .dockerignore hides it")
            for file in seen:
                copy = into / file.relative_to(found) if found.is_dir() else into
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)

    def _run(self, text: str) -> None:
        # A cache's mount: here it is this user's own cache.
        self.sh(re.sub(r"^--mount=type=cache,\S+\s+", "", text))

    def _entrypoint(self, text: str) -> None:
        self.entrypoint = json.loads(text)
