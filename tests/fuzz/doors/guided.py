"""Lets atheris choose a door's inputs by the code they reach; it has to be installed for that."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.fuzz.doors.door import Door
from tests.fuzz.doors.worker import MEMORY, SECONDS


def guide(door: Door) -> int:
    """Runs until it is stopped or the door breaks; atheris ends the process itself."""
    try:
        import atheris
    except ImportError:
        print("--guided: atheris is not installed; pip install atheris", file=sys.stderr)
        return 2
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("pipeline", "transforms", "schemas"):
            for member in list(vars(module).values()):
                if getattr(member, "__module__", None) == name and hasattr(member, "__code__"):
                    member.__code__ = atheris.instrument_func(member).__code__
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(door.inputs()):
            (Path(folder) / f"{number}").write_bytes(data)
        limits = [f"-timeout={SECONDS}", f"-rss_limit_mb={MEMORY >> 20}", "-max_len=100000"]
        atheris.Setup([sys.argv[0], *limits, folder], lambda data: _run(door, data))
        atheris.Fuzz()
    return 0


def _run(door: Door, data: bytes) -> None:
    door.run(bytes(data))
