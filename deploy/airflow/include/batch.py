"""The five commands of sensor_batch; each leaves files that the next one takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from include import commands

GROUP = "sensor_batch"


@dataclass(frozen=True)
class Steps:
    """The commands of one data interval.

    A step may be repeated: the simulator gives the same again, the publisher goes on after what
    the broker has acknowledged, lakes and warehouses hold each reading once.

    Attributes:
        folder: where each interval has a folder of its own, with one below it for every step.
        topic: `kafka://HOST:PORT/TOPIC`, created where it is missing.
        warehouse: what the job's `--warehouse` takes.
        start: start of the interval.
        end: its end.
    """

    folder: str
    topic: str
    warehouse: str
    start: datetime
    end: datetime

    def generate(self, machines: int, every_s: float, faults: float = 0.0) -> list[str]:
        """Simulates the interval's readings of `machines`, one each `every_s` seconds."""
        seconds = (self.end - self.start).total_seconds()
        parameters = {
            "equipment": machines,
            "machines": machines,
            "interval": f"{every_s:g}",
            "readings": machines * max(math.floor(seconds / every_s), 1),
            "start": f"{self.start.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "faults": f"{faults:g}",
        }
        fleet = "&".join(f"{name}={value}" for name, value in parameters.items())
        return self._job(f"simulator:?{fleet}", lake=self._at("generated"))

    def produce(self) -> list[str]:
        """Publishes the messages as they were generated."""
        return commands.project(
            "pipeline.publish", f"--source={self._at('generated/raw')}", f"--to={self.topic}",
            "--create_topic", f"--resume={self._at('published')}", "--no_progress",
        )  # fmt: skip

    def consume(self) -> list[str]:
        """Takes what is in the topic now and was not taken yet."""
        source = f"{self.topic}?group={GROUP}"
        return [*self._job(source, lake=self._at("consumed")), "--until=latest"]

    def transform(self) -> list[str]:
        """Decodes, validates, orders, drops duplicates, takes time deltas, flags."""
        return self._job(self._at("consumed/raw"), lake=self._at("transformed"))

    def load(self) -> list[str]:
        """Writes what is not in the warehouse yet."""
        return self._job(self._at("transformed/readings"), warehouse=self.warehouse)

    def _job(self, source: str, lake: str = "none", warehouse: str = "none") -> list[str]:
        return commands.project(
            "pipeline", "--runner=DirectRunner", f"--source={source}", f"--lake={lake}",
            f"--warehouse={warehouse}", "--no_progress",
        )  # fmt: skip

    def _at(self, what: str) -> str:
        return f"{self.folder}/{self.start.astimezone(UTC):%Y%m%dT%H%M}/{what}"
