"""All doors, by name."""

from __future__ import annotations

from tests.fuzz.doors import files, kept, messages, told
from tests.fuzz.doors.door import Door

DOORS: dict[str, Door] = {
    door.name: door for door in (*files.DOORS, *messages.DOORS, *kept.DOORS, *told.DOORS)
}
