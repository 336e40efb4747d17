"""What is written in the place of a file is there after a power cut, whole, under its name."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import durable
from pipeline.publishing.position import Position
from pipeline.running.checkpoint import Checkpoint


def checkpoint(path: Path) -> None:
    kept = Checkpoint(str(path))
    kept.prepare()
    kept.save(1_700_000_000.0)
    kept.finish()


def position(path: Path) -> None:
    Position(str(path), {"to": "x"}).save(3)


@pytest.mark.parametrize("write", [checkpoint, position])
def test_the_folder_is_on_the_disk_after_the_file(
    tmp_path: Path, write: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    really = os.fsync

    def fsync(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink())
        really(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write(tmp_path / "kept")
    assert synced and synced == [tmp_path / ".kept.partial", tmp_path] * (len(synced) // 2)
    assert not list(tmp_path.glob("*.partial"))


def test_what_can_t_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    durable.replace(path, [b"old"])
    with pytest.raises(TypeError):
        durable.replace(path, [b"new", None])  # type: ignore[list-item]
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    durable.replace(path, [b"n", b"ew"], 0o600)
    assert path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == 0o600
