"""The job's account: what was read is what was written, dropped as a duplicate, or a dead letter."""

from __future__ import annotations

from dataclasses import dataclass

from apache_beam.metrics.metric import MetricsFilter

from pipeline.engines.results import PipelineResult, without_cache

NAMESPACE = "account"
# Of counters that say how many readings written before have another version now, each by the name
# of who knows.
CORRECTED = "corrected"


@dataclass(frozen=True)
class Account:
    """Counts of readings, messages or rows; see `balances`.

    Attributes:
        read: messages and rows the source gave, and files it could not read.
        written: readings handed to the sinks; what each has of them, `pipeline.sinks.base.tally` says.
        duplicates: exact repetitions that were dropped.
        dead_letters: what could not become a reading.
        late: readings among `written` that had lost their place in the order.
        flagged: readings among `written` with at least one quality flag.
        refused: rows that a warehouse did not take; they are dead letters beside those counted
            here, which never became readings.
        corrected: versions of readings, among `written` by this run or an earlier one, of which
            another version with other values counts.
        superseded: those of them that came in this run and were handed on as such.
        lost: messages that the source had deleted before they were read; not among `read`.
    """

    read: int = 0
    written: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    late: int = 0
    flagged: int = 0
    refused: int = 0
    corrected: int = 0
    superseded: int = 0
    lost: int = 0

    @property
    def balances(self) -> bool:
        """Whether nothing was lost and nothing counted twice."""
        return self.left == 0

    @property
    def left(self) -> int:
        """Messages that were read and have not come out; negative where some came out twice."""
        return self.read - self.written - self.duplicates - self.dead_letters

    def lines(
        self, seconds: float, latency: str = "", kept: bool = True, saved: bool = False
    ) -> list[str]:
        """The account as lines for a person.

        Args:
            seconds: how long the job took.
            latency: what is to be told of a live job's latency.
            kept: whether there is a sink that readings are written to.
            saved: whether a savepoint holds what was read and has not come out yet.
        """
        in_savepoint = f" + in the savepoint {self.left:,}" if saved and self.left > 0 else ""
        sign = "=" if self.balances or in_savepoint else "≠"
        rate = self.read / seconds if seconds > 0 else 0.0
        parts = f"duplicates {self.duplicates:,} + dead letters {self.dead_letters:,}"
        written = "written" if kept else "not kept"
        return [
            f"read {self.read:,} {sign} {written} {self.written:,} + {parts}{in_savepoint}",
            f"late {self.late:,}, flagged {self.flagged:,}, corrected {self.corrected:,}; "
            f"{seconds:.1f} s, {rate:,.0f} readings/s" + (f"; {latency}" if latency else ""),
            *(
                [f"a warehouse refused {self.refused:,} rows: see its reason in the dead letters"]
                if self.refused
                else []
            ),
        ]


def of(result: PipelineResult) -> Account:
    """The account of a finished (or running) job, from its Beam metrics."""
    totals = _totals(without_cache(result), NAMESPACE)
    # Readings that were written before and now have another version: the stream knows of recent
    # ones and a warehouse of all of its own, so they are not added up.
    totals["corrected"] = totals.get("corrected", 0) + max(
        _totals(result, CORRECTED).values(), default=0
    )
    known = {name: totals.get(name, 0) for name in Account.__dataclass_fields__}
    return Account(**known)


def _totals(result: PipelineResult, namespace: str) -> dict[str, int]:
    """The sums of a namespace's counters over all steps, by name."""
    totals: dict[str, int] = {}
    for counter in result.metrics().query(MetricsFilter().with_namespace(namespace))["counters"]:
        name = counter.key.metric.name
        totals[name] = totals.get(name, 0) + int(counter.result or 0)
    return totals
