"""What a source tells of a file that is to be archived as it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RawFile:
    """A file to be archived verbatim.

    Attributes:
        path: where it can be opened (local path, gs://, s3://).
        source_file: its name with its folder, as readings carry it.
        arrived_at_us: its modification time, microseconds since 1970 UTC.
        size: bytes.
        root: the folder that it must lie in, links followed; None: anywhere.
    """

    path: str
    source_file: str
    arrived_at_us: int
    size: int
    root: str | None = None
