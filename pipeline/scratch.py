"""Files that the job keeps in TMPDIR while it works, and what to say where that folder is no use."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, cast

from pipeline.errors import SpillFailed, not_done


@contextlib.contextmanager
def in_tmpdir(what: str, verb: str = "written") -> Iterator[None]:
    """Makes an error of the system TMPDIR's; nothing but what touches files there belongs in it.

    Whatever the job works on when that folder is full is not to blame, and is not refused.

    Args:
        what: what is kept there, such as "the local runner's file".
        verb: what is done to it there.

    Raises:
        SpillFailed: the folder can't be used; the message names it and what to do.
    """
    try:
        yield
    except OSError as error:
        shown = not_done("TMPDIR", f"{what} in {_folder()}", verb, error)
        raise SpillFailed(f"{shown}; TMPDIR may name another folder") from error


@contextlib.contextmanager
def temporary(what: str, named: str | None = None) -> Iterator[IO[bytes]]:
    """An empty file in TMPDIR, gone on leaving; what is done to it belongs in `in_tmpdir`.

    Args:
        what: what is kept there.
        named: how its name ends, where others must open it by its name; None: it has none.

    Raises:
        SpillFailed: it can't be made there.
    """
    with in_tmpdir(what):
        made = (
            tempfile.TemporaryFile
            if named is None
            else partial(tempfile.NamedTemporaryFile, suffix=named)
        )
        file = cast("IO[bytes]", made())
    try:
        yield file
    finally:
        # It tries once more to write what did not fit, and nobody wants that any more.
        with contextlib.suppress(OSError):
            file.close()


@contextlib.contextmanager
def folder(what: str, prefix: str) -> Iterator[Path]:
    """The same for a folder whose name begins with `prefix`."""
    with in_tmpdir(what):
        made = tempfile.TemporaryDirectory(prefix=prefix)
    with made as path:
        yield Path(path)


def _folder() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:  # none can be written to
        return os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - named, not used
