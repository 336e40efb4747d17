"""Finds the samples of binary cycler files, which lie outside the repository, and makes others."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data" / "cyclers"


def samples() -> Path:
    """Where the samples are, if they are at hand."""
    return Path(os.environ.get("CYCLERS_DIR") or _BESIDE) / "binary"


def sample(name: str) -> Path:
    """A sample file; skips the test where it is not at hand."""
    folder = samples()
    path = folder / name
    if not path.is_file():
        pytest.skip(f"no {name} in {folder}; set CYCLERS_DIR to the folder that has binary/{name}")
    return path


def mpr(
    columns: Sequence[tuple[int, str]],
    rows: Sequence[Sequence[Any]],
    version: int = 3,
    start_days: float | None = None,
    start_at: int = 465,
) -> bytes:
    """A BioLogic .mpr file.

    Args:
        columns: each column's number and type; "" for one that is a bit of the flags' byte.
        rows: values, with the flags' byte where the first such column is.
        version: of the data module; 11 also takes the header of EC-Lab 11.50.
        start_days: when it began, in days since 1899-12-30; None leaves the log out.
        start_at: where in the log that stands.
    """
    id_type, head_bytes, count_bytes = {
        0: ("u1", 100, 1), 2: ("<u2", 405, 1), 3: ("<u2", 406, 2), 11: ("<u2", 1007, 2),
    }[version]  # fmt: skip
    fields, flagged = [], False
    for number, kind in columns:
        if kind or not flagged:
            fields.append((f"{number}", kind or "u1"))
        flagged |= not kind
    body = np.array([tuple(row) for row in rows], np.dtype(fields)).tobytes()
    ids = np.array([number for number, _ in columns], id_type).tobytes()
    head = struct.pack("<I", len(rows)) + len(columns).to_bytes(count_bytes, "little") + ids
    modules = [("VMP Set", b"\x04" * 120, 0)]
    modules.append(("VMP data", head.ljust(head_bytes, b"\x00") + body, version))
    if start_days is not None:
        log = bytearray(700)
        log[start_at : start_at + 8] = struct.pack("<d", start_days)
        modules.append(("VMP LOG", bytes(log), 0))
    return b"BIO-LOGIC MODULAR FILE\x1a".ljust(48) + bytes(4) + b"".join(
        _module(name, data, number, new=version == 11) for name, data, number in modules
    )  # fmt: skip


def _module(name: str, data: bytes, version: int, new: bool) -> bytes:
    words = b"MODULE" + name.encode().ljust(10) + name.encode().ljust(25)
    numbers = (0xFFFFFFFF, len(data), 0, version) if new else (len(data), version)
    return words + struct.pack(f"<{len(numbers)}I", *numbers) + b"03/14/24" + data
