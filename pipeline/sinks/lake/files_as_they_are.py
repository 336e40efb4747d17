"""Archives the files that a source reads, as they are."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from apache_beam.io.filesystems import FileSystems

from pipeline.safe_open import EVERYBODY, mode_of
from pipeline.scratch import in_tmpdir, temporary
from pipeline.sinks.lake.archive import hour_folder
from pipeline.sinks.lake.files import write_copy
from pipeline.sinks.lake.writing import Writing
from pipeline.sources.files.splits import name_as_text, opened
from pipeline.sources.formats.meter import Refused
from pipeline.stores import Store
from pipeline.stores.raw_file import RawFile

_log = logging.getLogger(__name__)
_COPY_BYTES = 4 * 1024 * 1024


class ArchiveFile(Writing):
    """Copies files; each in a folder that is named by its content, so it is kept once."""

    def process(self, file: RawFile) -> None:
        """Begins to copy."""
        self.begin(archive_file, file)


def archive_file(store: Store, file: RawFile) -> None:
    """Copies one file, unless it is there; whoever may not read it may not read the copy.

    One that is gone by now, or must not be read, is left out: its reader makes it a dead letter.
    """
    try:
        source = opened(file.path, file.root)
    except Refused:
        return
    except (FileNotFoundError, PermissionError) as error:
        why = error.strerror or "is gone"
        _log.warning("%s is not in the raw archive: %s", name_as_text(file.path), why)
        return
    with source, _here(file.path, source) as (local, mode):
        name = _digest(local)
        hour = hour_folder(file.arrived_at_us)
        path = f"raw/source=files/{hour}/{name}/{file.source_file}"
        write_copy(store, path, local, file.arrived_at_us, mode)


@contextmanager
def _here(path: str, source: BinaryIO) -> Iterator[tuple[BinaryIO, int]]:
    """The file on this machine's disk, and the permissions of its copy at most."""
    if FileSystems.get_scheme(path) is None:
        yield source, mode_of(source)
        return
    what = f"a copy of {name_as_text(path)}"
    with temporary(what) as local:
        while block := source.read(_COPY_BYTES):
            with in_tmpdir(what):
                local.write(block)
                local.flush()
        yield cast("BinaryIO", local), EVERYBODY


def _digest(file: BinaryIO) -> str:
    digest = hashlib.blake2b(digest_size=10)
    file.seek(0)
    while block := file.read(_COPY_BYTES):
        digest.update(block)
    return digest.hexdigest()
