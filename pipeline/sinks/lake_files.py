"""Archives the files that a source reads, as they are."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from pipeline.sinks.archive import hour_folder
from pipeline.sinks.files import write_copy
from pipeline.sinks.writing import Writing
from pipeline.sources import RawFile
from pipeline.stores import Store

_log = logging.getLogger(__name__)
_COPY_BYTES = 4 * 1024 * 1024


class ArchiveFile(Writing):
    """Copies files; each in a folder that is named by its content, so it is kept once."""

    def process(self, file: RawFile) -> None:
        """Begins to copy."""
        self.begin(archive_file, file)


def archive_file(store: Store, file: RawFile) -> None:
    """Copies one file, unless it is there; one that is gone by now is named and left out."""
    try:
        _copy(store, file)
    except FileNotFoundError:
        # Its reader says the same, in a dead letter.
        _log.warning("%s was removed while the job ran; it is not in the raw archive", file.path)


def _copy(store: Store, file: RawFile) -> None:
    with _here(file.path) as local:
        name = _digest(local)
        hour = hour_folder(file.arrived_at_us)
        path = f"raw/source=files/{hour}/{name}/{file.source_file}"
        write_copy(store, path, local, file.arrived_at_us)


@contextmanager
def _here(path: str) -> Iterator[Path]:
    """The file, on this machine's disk."""
    if FileSystems.get_scheme(path) is None:
        yield Path(path)
        return
    with tempfile.NamedTemporaryFile() as local:
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as source:
            shutil.copyfileobj(source, local, _COPY_BYTES)
        local.flush()
        yield Path(local.name)


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=10)
    with path.open("rb") as file:
        while block := file.read(_COPY_BYTES):
            digest.update(block)
    return digest.hexdigest()
