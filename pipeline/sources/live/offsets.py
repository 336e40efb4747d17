"""What becomes of a partition's offsets: where reading begins, and which hold no message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from schemas.reading import SKIPPED

# Why offsets were passed without a message that was read; the schema says what each means.
RETENTION, TRUNCATED, COMPACTION, MISSING, ABORTED, CONTROL, OPEN = SKIPPED

# These may have lost messages; the others lose nothing.
LOST = (RETENTION, TRUNCATED)


class Gap(NamedTuple):
    """Offsets that gave no message.

    Attributes:
        first: the first of them.
        last: the last of them.
        offsets: how many of these offsets it is about; 0 where that is not known.
        reason: one of the reasons above.
    """

    first: int
    last: int
    offsets: int
    reason: str


def gap(first: int, last: int, reason: str) -> Gap:
    """A gap without anything in it."""
    return Gap(first, last, last - first + 1, reason)


class Placed(NamedTuple):
    """Where a partition is read on.

    Attributes:
        at: the offset.
        gap: what is missing before it; None for nothing.
    """

    at: int
    gap: Gap | None


def placed(asked: int, first: int, end: int) -> Placed:
    """The one rule for an offset that the log may not have.

    Before the log's start it is read from the start; what was to be read before is lost. Beyond
    its end the log is not the one that the offset was of: it is read from its start, for all of it
    may be new. What was read before is known by its id and dropped.

    Args:
        asked: the next offset to be read.
        first: the log's first offset.
        end: the offset behind its last.
    """
    if asked > end:
        return Placed(first, Gap(end, asked - 1, 0, TRUNCATED))
    if asked < first:
        return Placed(first, gap(asked, first - 1, RETENTION))
    return Placed(asked, None)


def replaced(asked: int, first: int) -> Placed:
    """The same where the log is known to be another one, whatever offsets it has."""
    return Placed(first, Gap(0, asked - 1, 0, TRUNCATED) if asked else None)


def told(topic: str, partition: int, lost: Gap) -> str:
    """What is said of offsets that are lost."""
    where = f"topic {topic}, partition {partition}"
    if lost.reason == TRUNCATED:
        return (
            f"{where}: offset {lost.last + 1:,} was to be read next, but from offset "
            f"{lost.first:,} on the log is not the one it was of (made anew, restored or cut off); "
            "it is read from its start, and readings that are there already are dropped"
        )
    return (
        f"{where}: offsets {lost.first:,} to {lost.last:,} ({lost.offsets:,}) were deleted before "
        "they were read; the topic's retention is shorter than the job was behind"
    )


def merged(gaps: Iterable[Gap]) -> tuple[Gap, ...]:
    """One gap per reason, from its first offset to its last."""
    found: dict[str, Gap] = {}
    for each in gaps:
        known = found.get(each.reason)
        found[each.reason] = (
            each
            if known is None
            else Gap(
                min(known.first, each.first),
                max(known.last, each.last),
                known.offsets + each.offsets,
                each.reason,
            )
        )
    return tuple(found.values())


def before(gaps: Iterable[Gap], stop: int) -> list[Gap]:
    """What of whole gaps lies before an offset."""
    return [gap(g.first, min(g.last, stop - 1), g.reason) for g in gaps if g.first < stop]


def why_compacted(gaps: Iterable[Gap], compacted: bool | None) -> list[Gap]:
    """Gaps whose reason says so where the topic is one that is not compacted."""
    return [
        each._replace(reason=MISSING) if each.reason == COMPACTION and compacted is False else each
        for each in gaps
    ]


@dataclass(frozen=True)
class Span:
    """Offsets of a partition that were read one after the other.

    Attributes:
        first: the first of them.
        following: the offset behind the last.
        read: how many messages they gave, refused ones among them.
        gaps: those of them that gave none, without what was lost before `first`.
        log: which log they are of; a topic that is made anew has another one.
    """

    first: int
    following: int
    read: int
    gaps: Sequence[Gap] = ()
    log: str | None = None
