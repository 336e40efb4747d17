"""How a table in a file is to be read: what all its parts share."""

from __future__ import annotations

from dataclasses import dataclass

from transforms.interpret.interpretation import Interpretation


@dataclass(frozen=True)
class Reading:
    """What all parts of a file share.

    Attributes:
        how: what its columns mean.
        equipment_id: what its rows are of, where they name nothing.
        test_start_us: when its test began; None where only all of its rows together show it.
        in_parts: whether its rows can travel in several batches.
        last_s: how long the test lasted, where its clock is all that says when a row was measured.
    """

    how: Interpretation
    equipment_id: str | None
    test_start_us: int | None
    in_parts: bool
    last_s: float | None = None

    @property
    def clock(self) -> list[str]:
        """Columns of the test's clock, if that of the whole file is all it takes to cut it."""
        uses = self.how.uses
        others = {use.field for use in uses} & {"recorded_at", "streamed_at", "ingested_at"}
        if self.in_parts or self.how.in_order or others:
            return []
        return [use.column for use in uses if use.field == "test_time_s"]
