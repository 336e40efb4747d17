"""What a run reports at its end besides the account: files that gave nothing, tests in doubt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from pipeline import account
from pipeline.engines.results import PipelineResult
from pipeline.sources.live.offsets import (
    ABORTED,
    COMPACTION,
    CONTROL,
    LOST,
    MISSING,
    OPEN,
    RETENTION,
    TRUNCATED,
    Gap,
    told,
)
from schemas.reading import DISAGREEMENTS, SKIPPED

# Namespaces and names of the counters. The sets of names beside them are not known to every
# runner: where they are missing, the line gives the number alone.
FILES, DIALECTS, POSITIONS = "files", "dialects", "positions"
WITNESSES = "statistics"
WITHOUT_READINGS = "without_readings"
GAVE_NOTHING = "gave_nothing"
READ = "read"
# What is said of offsets that gave no message.
_REASONS = {
    RETENTION: "deleted before they were read",
    TRUNCATED: "places where the log is another one",
    COMPACTION: "compacted",
    MISSING: "missing",
    ABORTED: "of aborted transactions",
    CONTROL: "markers of transactions",
    OPEN: "behind open transactions, left for the next run",
}

# So many files and tests are named.
_MOST_FILES = 10
_MOST_TESTS = 3
# So many messages of a file are weighed against each other, and so much of one is shown.
_MOST_MESSAGES = 20
_MESSAGE_LENGTH = 300


@dataclass(frozen=True)
class _Seen:
    """What is known of a file.

    Attributes:
        opened: whether this run has read it.
        readings: whether it gave any.
        refused: (error message, how often).
    """

    opened: bool = False
    readings: bool = False
    refused: tuple[tuple[str, int], ...] = ()


class _Merge(beam.CombineFn):
    """Brings together what is known of a file."""

    def create_accumulator(self) -> _Seen:
        return _Seen()

    def add_input(self, one: _Seen, other: _Seen) -> _Seen:
        return self.merge_accumulators((one, other))

    def merge_accumulators(self, all_seen: Iterable[_Seen]) -> _Seen:
        opened = readings = False
        refused: Counter[str] = Counter()
        for seen in all_seen:
            opened |= seen.opened
            readings |= seen.readings
            refused.update(dict(seen.refused))
        return _Seen(opened, readings, tuple(_most_frequent(refused)))

    def extract_output(self, seen: _Seen) -> _Seen:
        return seen


def _most_frequent(refused: Mapping[str, int]) -> list[tuple[str, int]]:
    ranked = sorted(refused.items(), key=lambda pair: (-pair[1], pair[0]))
    return ranked[:_MOST_MESSAGES]


class _ByFile(beam.DoFn):
    """Gathers what a bundle says of each file; gives (file, `_Seen`) at its end."""

    def __init__(self) -> None:
        self._found: dict[str, _Seen] = {}
        self._merge = _Merge()

    def start_bundle(self) -> None:
        self._found = {}

    def process(self, element: Any) -> None:
        for name, seen in self.seen(element):
            known = self._found.get(name)
            self._found[name] = seen if known is None else self._merge.add_input(known, seen)

    def seen(self, element: Any) -> Iterator[tuple[str, _Seen]]:
        """What an element says of files."""
        raise NotImplementedError

    def finish_bundle(self) -> Iterator[Any]:
        for pair in self._found.items():
            yield WindowedValue(pair, 0, [GlobalWindow()])


class _Opened(_ByFile):
    def seen(self, element: str) -> Iterator[tuple[str, _Seen]]:
        yield element, _Seen(opened=True)


class _Gave(_ByFile):
    def seen(self, element: pa.Table) -> Iterator[tuple[str, _Seen]]:
        if "source_file" in element.column_names:
            for name in pc.unique(element.column("source_file")).drop_null().to_pylist():
                yield name, _Seen(readings=True)


class _Refused(_ByFile):
    def seen(self, element: pa.Table) -> Iterator[tuple[str, _Seen]]:
        grouped = element.select(["source_file", "error_message"]).group_by(
            ["source_file", "error_message"]
        )
        for row in grouped.aggregate([([], "count_all")]).to_pylist():
            if row["source_file"] is not None:
                message = row["error_message"][:_MESSAGE_LENGTH]
                yield row["source_file"], _Seen(refused=((message, row["count_all"]),))


class _Nothing(beam.DoFn):
    """Counts and names files that gave nothing but dead letters."""

    def __init__(self) -> None:
        self._count = Metrics.counter(FILES, GAVE_NOTHING)
        self._named = Metrics.string_set(FILES, GAVE_NOTHING)
        self._left = _MOST_FILES

    def process(self, element: tuple[str, _Seen]) -> None:
        name, seen = element
        if not seen.opened or seen.readings or not seen.refused:
            return
        self._count.inc()
        if self._left:
            self._left -= 1
            message, times = seen.refused[0]
            often = f" ({times:,} times)" if times > 1 else ""
            self._named.add(f"{name}: {message}{often}")


class NoteFiles(beam.PTransform):
    """Finds the files of bounded input that gave no reading and at least one dead letter.

    Takes (names of files that were opened, tables of valid readings, tables of dead letters of the
    steps up to there, …). Files are distinguished by their name with its folder, as readings carry
    it; of two that share it, one that gave readings hides the other.
    """

    def expand(self, parts: tuple[beam.PCollection, ...]) -> Any:
        """Adds the steps."""
        opened, readings, *all_letters = parts
        kind = tuple[str, Any]
        said = [
            opened | "Opened" >> beam.ParDo(_Opened()).with_output_types(kind),
            readings | "Gave" >> beam.ParDo(_Gave()).with_output_types(kind),
        ]
        said += [
            letters | f"Refused{number}" >> beam.ParDo(_Refused()).with_output_types(kind)
            for number, letters in enumerate(all_letters, 1)
        ]
        seen = tuple(said) | "Seen" >> beam.Flatten()
        return seen | "ByFile" >> beam.CombinePerKey(_Merge()) | "Nothing" >> beam.ParDo(_Nothing())


class NoteDialects(beam.DoFn):
    """Counts the tests of each disagreement, from tables of schema TEST_DIALECT."""

    def __init__(self) -> None:
        self._counts = {name: Metrics.counter(DIALECTS, name) for name in DISAGREEMENTS}
        self._named = {name: Metrics.string_set(DIALECTS, name) for name in DISAGREEMENTS}

    def process(self, rows: pa.Table) -> None:
        """Takes note of them."""
        for row in rows.select(["equipment_id", "test_id", "disagreements"]).to_pylist():
            for name in row["disagreements"]:
                if name in self._counts:
                    self._counts[name].inc()
                    self._named[name].add(row["test_id"] or row["equipment_id"])


class NotePositions(beam.DoFn):
    """Counts what was read and passed of a topic, from tables of schema SOURCE_POSITION."""

    def __init__(self) -> None:
        self._read = Metrics.counter(POSITIONS, READ)
        self._lost = Metrics.counter(account.NAMESPACE, "lost")
        self._passed = {name: Metrics.counter(POSITIONS, name) for name in SKIPPED}
        self._named = {name: Metrics.string_set(POSITIONS, name) for name in LOST}

    def process(self, rows: pa.Table) -> None:
        """Takes note of them."""
        for row in rows.to_pylist():
            if row["partition_number"] is None:
                continue
            self._read.inc(row["messages_read"])
            reason = row["reason"]
            if reason in self._passed:
                # Of a log that is another one it is not known how many.
                self._passed[reason].inc(row["offsets_skipped"] or 1)
            if reason in self._named:
                self._lost.inc(row["offsets_skipped"])
                gap = Gap(row["first_offset"], row["last_offset"], row["offsets_skipped"], reason)
                self._named[reason].add(told(row["topic"], row["partition_number"], gap))


@dataclass(frozen=True)
class Outcome:
    """What is reported at the end.

    Attributes:
        witnesses: files and sheets that held the cycler's own cycle statistics.
        without_readings: files and sheets that hold other things than readings.
        nothing: files that gave no reading and at least one dead letter.
        named: some of them, each with its most frequent error.
        doubts: per disagreement, how many tests have it and the names of some.
        offsets: what a topic's offsets gave: messages read, and how many were passed by reason.
        lost: sentences about the messages that may be lost.
    """

    witnesses: int = 0
    without_readings: int = 0
    nothing: int = 0
    named: tuple[str, ...] = ()
    doubts: Mapping[str, tuple[int, tuple[str, ...]]] = field(default_factory=dict)
    offsets: Mapping[str, int] = field(default_factory=dict)
    lost: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """What the account is followed by, for a person."""
        lines = []
        if self.offsets:
            passed = [
                f"{count:,} {_REASONS[name]}"
                for name, count in self.offsets.items()
                if name != READ
            ]
            lines.append(
                f"offsets: {self.offsets.get(READ, 0):,} messages read"
                + (f"; passed: {', '.join(passed)}" if passed else ", none passed")
                + "; see source_positions"
            )
        if self.witnesses:
            lines.append(
                f"cycler's own statistics: {_many(self.witnesses, 'file or sheet')} used as "
                "witnesses, not as readings; see cycle_summaries"
            )
        if self.without_readings:
            lines.append(
                f"left out: {_many(self.without_readings, 'file or sheet')} without readings "
                "(step statistics, test info, or tables that the job makes itself)"
            )
        if self.doubts:
            parts = [
                f"{_tests(count, first)} with {name}{_some(names, count)}"
                for first, (name, (count, names)) in zip(
                    [True, *[False] * len(self.doubts)], self.doubts.items(), strict=False
                )
            ]
            lines.append(f"in doubt: {', '.join(parts)}; see test_dialects")
        return lines

    def complaints(self) -> list[str]:
        """The files that gave nothing, for a person; none where every file gave something."""
        if not self.nothing:
            return []
        shown = [f"  {line}" for line in self.named]
        if shown and self.nothing > len(shown):
            shown.append(f"  … and {self.nothing - len(shown):,} more")
        said = "1 file" if self.nothing == 1 else f"{self.nothing:,} files"
        return [f"error: {said} gave no reading; see dead_letters:", *shown]

    def losses(self) -> list[str]:
        """What a topic had lost before it was read, for a person; none where it lost nothing."""
        if not self.lost and not any(self.offsets.get(name) for name in LOST):
            return []
        return [
            (
                "error: the topic had not all that was to be read (what it had is written; "
                "--allow_data_loss ends such a run with status 0):"
            ),
            *(f"  {line}" for line in self.lost[:_MOST_FILES]),
            *([f"  … and {len(self.lost) - _MOST_FILES:,} more"] * (len(self.lost) > _MOST_FILES)),
        ]


def _many(count: int, what: str) -> str:
    one, joined, other = what.partition(" or ")
    return f"1 {what}" if count == 1 else f"{count:,} {one}s{joined}{other}s"


def _tests(count: int, first: bool) -> str:
    if not first:
        return f"{count:,}"
    return "1 test" if count == 1 else f"{count:,} tests"


def _some(names: Sequence[str], count: int) -> str:
    if not names:
        return ""
    return f" ({', '.join(names)}{', …' if count > len(names) else ''})"


def of(result: PipelineResult) -> Outcome:
    """The outcome of a finished job, from its Beam metrics."""
    found = result.metrics().query(MetricsFilter().with_namespaces([FILES, DIALECTS, POSITIONS]))
    counts: Counter[tuple[str, str]] = Counter()
    for counter in found["counters"]:
        metric = counter.key.metric
        counts[metric.namespace, metric.name] += int(counter.result or 0)
    names: dict[tuple[str, str], set[str]] = {}
    for each in found.get("string_sets", ()):
        metric = each.key.metric
        names.setdefault((metric.namespace, metric.name), set()).update(each.result or ())
    doubts = {}
    for name in DISAGREEMENTS:
        # A test that arrives in two bundles is counted twice, and named once.
        tests = sorted(names.get((DIALECTS, name), ()))
        if count := len(tests) or counts[DIALECTS, name]:
            doubts[name] = (count, tuple(tests[:_MOST_TESTS]))
    return Outcome(
        witnesses=counts[FILES, WITNESSES],
        without_readings=counts[FILES, WITHOUT_READINGS],
        nothing=counts[FILES, GAVE_NOTHING],
        named=tuple(sorted(names.get((FILES, GAVE_NOTHING), ()))[:_MOST_FILES]),
        doubts=doubts,
        offsets={
            name: counts[POSITIONS, name] for name in (READ, *SKIPPED) if counts[POSITIONS, name]
        },
        lost=tuple(line for name in LOST for line in sorted(names.get((POSITIONS, name), ()))),
    )
