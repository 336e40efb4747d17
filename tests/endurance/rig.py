"""What every scenario needs: a broker, a topic, a job on it, producers, and the checks at the end."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from tests.endurance.checks import Tables, wrong
from tests.endurance.processes import Job, Producer
from tests.services.kafka import Broker


@dataclass
class Rig:
    """One scenario's surroundings; a context manager, whose processes are gone at the end.

    Attributes:
        broker: the broker.
        folder: where everything of this scenario is written.
        rate: readings per second of a producer.
        window_s: length of the windows.
        partitions: of the topic.
        pace: how long the scenarios' pauses are, compared with the long form.
        choose: for random moments.
        figures: what is worth telling beside the counts.
        flags: of every job, beside its own.
        lake: the folder where the jobs' lake lies, if flags have them write elsewhere.
    """

    broker: Broker
    folder: Path
    rate: float = 2000
    window_s: int = 10
    partitions: int = 4
    pace: float = 1.0
    choose: random.Random = field(default_factory=random.Random)
    figures: dict[str, float] = field(default_factory=dict)
    flags: Sequence[str] = ()
    lake: Path | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.topic = self.broker.new_topic(
            "endurance", self.partitions, {"max.message.bytes": str(8 << 20)}
        )
        self.producers: list[Producer] = []
        self.jobs: list[Job] = []
        self._stack = ExitStack()

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def job(self, *flags: str, parameters: str = "") -> Job:
        """Starts a job on the topic; all jobs share group, lake and warehouse."""
        source = f"kafka://{self.broker.bootstrap}/{self.topic}?group={self.topic}{parameters}"
        name = f"job-{len(self.jobs)}"
        job = Job(name, self.folder, source, f"--window={self.window_s}", *self.flags, *flags)
        job.lake = self.lake or job.lake
        self.jobs.append(self._stack.enter_context(job))
        return job

    def producer(self, *flags: str) -> Producer:
        """Starts a producer; further flags win over the rig's own."""
        name = f"producer-{len(self.producers)}"
        producer = Producer(
            name, self.folder, self.broker.bootstrap, self.topic, f"--rate={self.rate}", *flags
        )
        self.producers.append(self._stack.enter_context(producer))
        return producer

    def wait(self, seconds: float) -> None:
        """A pause, shorter in a short form."""
        time.sleep(seconds * self.pace)

    def ends(self) -> dict[int, int]:
        """The next offset of every partition."""
        with KafkaConsumer(**self.broker.client_settings()) as consumer:
            found = consumer.partitions_for_topic(self.topic) or ()
            return {
                part.partition: end
                for part, end in consumer.end_offsets(
                    [TopicPartition(self.topic, number) for number in found]
                ).items()
            }

    def committed(self) -> dict[int, int]:
        """The group's offset of every partition that has one."""
        give_up = time.monotonic() + 30
        while True:
            try:
                with self.broker.admin() as admin:
                    found = admin.list_group_offsets({self.topic: None})[self.topic]
            except KafkaError:
                # A broker that has just started has no coordinator for the group yet.
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.5)
            else:
                return {
                    part.partition: kept.offset for part, kept in found.items() if kept.offset >= 0
                }

    def reading(self, patience_s: float = 180) -> None:
        """Waits until the job has committed something new: it reads and writes."""
        before = sum(self.committed().values())
        self.until(lambda: sum(self.committed().values()) > before, patience_s, "nothing committed")

    def read_to(self, ends: dict[int, int], patience_s: float = 180) -> None:
        """Waits until the group has come to these offsets."""

        def there() -> bool:
            committed = self.committed()
            return all(committed.get(number, 0) >= end for number, end in ends.items())

        self.until(there, patience_s, f"offsets {ends} not committed")

    def until(self, holds: Callable[[], bool], patience_s: float, what: str) -> None:
        """Waits until `holds()`; TimeoutError saying `what` if it never does, or the job ended."""
        give_up = time.monotonic() + patience_s
        while not holds():
            if self.jobs and not self.jobs[-1].runs:
                raise TimeoutError(f"{what}: the job ended, see {self.jobs[-1].err}")
            if time.monotonic() > give_up:
                raise TimeoutError(f"{what} within {patience_s:.0f} s")
            time.sleep(0.25)

    def finish(self, job: Job, but: Sequence[str] = ()) -> dict[str, int]:
        """Ends producers and job in order, and compares.

        Args:
            job: the one that still runs.
            but: checks that this scenario can't pass by its nature.

        Returns:
            what is not as it must be, by name; with the job's exit status if that isn't 0.
        """
        for producer in self.producers:
            if producer.runs:
                producer.stop()
        time.sleep(2.5)  # so that the next line was written after the last message had come
        # Draining finishes what was read; what was not read stays in the topic.
        self.until(job.caught_up, 300, "the job does not catch up")
        began = time.monotonic()
        status = job.stop()
        self.figures["drain_s"] = time.monotonic() - began
        return self.compare(job, but) | ({"exit_status": status} if status else {})

    def compare(self, job: Job, but: Sequence[str] = ()) -> dict[str, int]:
        """Compares what the ended job left with the topic; see `finish`."""
        with self.tables(job) as tables:
            counts = tables.counts()
        self.figures |= {name: counts[name] for name in ("messages", *but)}
        account = job.account()
        unbalanced = account.get("read", 0) - sum(
            account.get(name, 0) for name in ("written", "duplicates", "dead_letters")
        )
        return wrong({**counts, "no_account": int(not account), "unbalanced": unbalanced}, but)

    def tables(self, job: Job) -> Tables:
        """What was sent and written; the caller closes it."""
        tables = Tables(self.broker, self.topic, job)
        tables.acknowledged(self.producers)
        return tables
