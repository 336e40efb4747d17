"""Gives every step an id that depends on its name alone, so that a job's timers find it again."""

from __future__ import annotations

import hashlib
from typing import Any

from apache_beam.pipeline import AppliedPTransform, ComponentIdMap

# Of the name; Beam itself cuts its ids at 100 characters.
_LONGEST = 80


class StepIds(ComponentIdMap):
    """The ids of a graph's parts; assign it to `Pipeline.component_id_map` before the graph is run.

    Beam numbers steps in the order in which they were added, and Flink stores a timer under its
    step's id. One step more near the source would renumber all others, and a job restored from a
    savepoint would fail as soon as a timer of the old job fires (`No receiver found for timer`).
    """

    def get_or_assign(self, obj: Any = None, obj_type: Any = None, label: str | None = None) -> str:
        """The id of a part; of a step, by its label."""
        if obj_type is not AppliedPTransform or not label:
            assigned: str = super().get_or_assign(obj, obj_type, label)
            return assigned
        # Two names may look alike once they are cut and their special characters are replaced.
        digest = hashlib.blake2b(label.encode(), digest_size=6).hexdigest()
        name = self._normalize(label)[:_LONGEST]
        return f"{self.namespace}_{AppliedPTransform.__name__}_{name}_{digest}"
