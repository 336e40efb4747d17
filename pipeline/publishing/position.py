"""Remembers in a small file how much of a publication the broker has acknowledged."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pipeline import durable
from pipeline.errors import ConfigError


class Position:
    """How many messages are safe at the broker, over all runs that share a file.

    Args:
        path: the file, made when something is first saved; None remembers nothing.
        what: everything that decides which message is the nth; a file that was written for
            another publication is refused.
    """

    def __init__(self, path: str | None, what: dict[str, str]) -> None:
        self._path = None if path is None else Path(path)
        self._what = what

    def load(self) -> int:
        """How many messages were acknowledged before; 0 without a file.

        Raises:
            ConfigError: the file can't be used.
        """
        if self._path is None:
            return 0
        begin_anew = "delete it to begin anew, or give another file"
        try:
            found = json.loads(self._path.read_text())
            acknowledged, what = found["acknowledged"], dict(found["publication"])
        except FileNotFoundError:
            self.save(0)  # finds out now whether it can be written
            return 0
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"--resume={self._path}: can't be read as a position ({error}); {begin_anew}"
            ) from error
        for name, value in self._what.items():
            if what.get(name) != value:
                shown = (
                    "the files of --source have changed"
                    if name == "files"
                    else (f"{name} was {what.get(name)} and is {value}")
                )
                raise ConfigError(
                    f"--resume={self._path}: belongs to another publication: {shown}; {begin_anew}"
                )
        # Older versions wrote none.
        if "checksum" in found and found["checksum"] != _digest(acknowledged, what):
            raise ConfigError(
                f"--resume={self._path}: is not what was written: its checksum differs; "
                f"{begin_anew}"
            )
        if not isinstance(acknowledged, int) or acknowledged < 0:
            raise ConfigError(f"--resume={self._path}: holds no position; {begin_anew}")
        return acknowledged

    def save(self, acknowledged: int) -> None:
        """Replaces the file as a whole, so that a crash leaves the old or the new one."""
        if self._path is None:
            return
        content = {"acknowledged": acknowledged, "publication": self._what}
        text = json.dumps(content | {"checksum": _digest(acknowledged, self._what)})
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            durable.replace(self._path, [text.encode()])
        except OSError as error:
            raise ConfigError(
                f"--resume={self._path}: can't be written ({error.strerror or error}); give a "
                "file in a folder you may write to"
            ) from error


def _digest(acknowledged: object, what: object) -> str:
    content = json.dumps([acknowledged, what], sort_keys=True).encode()
    return hashlib.blake2b(content, digest_size=8).hexdigest()
