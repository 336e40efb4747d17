"""Says how one fingerprint differs from another, whether a running job survives it, and what to do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from tests.stable.fingerprint import GROUPING, SPLITTABLE, Fingerprint, key_of
from tests.stable.graphs import DATAFLOW, FLINK

_DRAIN = "drain the running job, then start the new one"
_TRY = "try it on a copy of the job first"
_DROPS = "--allow_non_restored_state"


class Verdict(StrEnum):
    """What becomes of a running job.

    Attributes:
        BREAKS: it can't be updated, or loses what it keeps.
        ASKS: it can be updated if whoever does it gives a flag or looks first.
        FINE: nothing has to be done.
    """

    BREAKS = "breaks"
    ASKS = "asks"
    FINE = "fine"


@dataclass(frozen=True)
class Difference:
    """One difference.

    Attributes:
        verdict: what becomes of a running job.
        step: the step.
        what: what differs, from what to what.
        do: what to do; empty for nothing.
    """

    verdict: Verdict
    step: str
    what: str
    do: str = ""

    @property
    def line(self) -> str:
        """For people."""
        return f"{self.verdict.value:<6}  {self.step}: {self.what}" + (self.do and f"; {self.do}")

    def as_json(self) -> dict[str, str]:
        """For records."""
        return {name: str(value) for name, value in asdict(self).items()}


def differences(old: Fingerprint, new: Fingerprint) -> list[Difference]:
    """What has changed between two graphs of one configuration, the worst first."""
    compare = _of_dataflow if old["engine"] == DATAFLOW else _of_flink
    found = set(compare(old, new))
    return sorted(found, key=_worst_first)


def _worst_first(each: Difference) -> tuple[int, str, str]:
    return list(Verdict).index(each.verdict), each.step, each.what


def _of_dataflow(old: Fingerprint, new: Fingerprint) -> Iterator[Difference]:
    before, after = old["keeps"], new["keeps"]
    gone, come = _apart(before, after)
    for name in gone:
        as_it_was = [each for each in come if after[each] == before[name]]
        if len(as_it_was) == 1:
            mapping = json.dumps({name: as_it_was[0]})
            yield Difference(
                Verdict.ASKS,
                name,
                f"was renamed to {as_it_was[0]}",
                f"update with --transform_name_mapping='{mapping}'",
            )
            come.remove(as_it_was[0])
        else:
            mapping = json.dumps({name: ""})
            yield Difference(
                Verdict.BREAKS,
                name,
                f"was removed, with what it keeps ({_kept(before[name])})",
                f"{_DRAIN}, or drop that with --transform_name_mapping='{mapping}'",
            )
    for name in sorted(before.keys() & after.keys()):
        yield from _changed(name, before[name], after[name], DATAFLOW)
    yield from _begun(come, after)
    lost, added = (
        sorted(set(one["others"]) - set(other["others"]) - set(other["keeps"]))
        for one, other in ((old, new), (new, old))
    )
    for name in lost:
        mapping = json.dumps({name: ""})
        yield Difference(
            Verdict.ASKS,
            name,
            "was removed or renamed; it keeps no state",
            f"if Dataflow misses it, update with --transform_name_mapping='{mapping}' "
            "(or the new name)",
        )
    for name in added:
        yield Difference(Verdict.FINE, name, "is new; it keeps no state")
    for name in sorted(set(new["impulses"]) - set(old["impulses"])):
        yield Difference(Verdict.FINE, name, "is new")
    for name in sorted(set(old["impulses"]) - set(new["impulses"])):
        yield Difference(
            Verdict.BREAKS,
            name,
            "was removed; Dataflow updates no job to one without a source of it",
            _DRAIN,
        )


def _of_flink(old: Fingerprint, new: Fingerprint) -> Iterator[Difference]:
    before, after = old["keeps"], new["keeps"]
    by_operator = {each["operator"]: name for name, each in after.items()}
    matched = set()
    for name, was in before.items():
        now = by_operator.get(was["operator"])
        if now is None:
            moved = after.get(name)
            why = (
                f"its input comes from another step (operator {was['operator']!r} before, "
                f"{moved['operator']!r} now)"
                if moved
                else f"operator {was['operator']!r} was removed"
            )
            yield Difference(
                Verdict.BREAKS,
                name,
                f"{why}, so that its state is not found ({_kept(was)})",
                f"{_DRAIN}; with {_DROPS} Flink would drop it",
            )
            continue
        matched.add(now)
        if now != name:
            yield Difference(Verdict.FINE, name, f"was renamed to {now}; the operator is the same")
        yield from _changed(name, was, after[now], FLINK)
    yield from _begun(sorted(after.keys() - matched - before.keys()), after)
    everywhere = {*new["operators"], *by_operator}
    for operator in sorted(set(old["operators"]) - everywhere):
        yield Difference(
            Verdict.ASKS,
            operator,
            "this operator no longer exists; it keeps no state, but the savepoint names it",
            f"restore with {_DROPS}, if nothing else breaks",
        )
    for operator in sorted(set(new["operators"]) - set(old["operators"])):
        yield Difference(Verdict.FINE, operator, "this operator is new; it keeps no state")
    if old["impulses"] != new["impulses"]:
        yield Difference(
            Verdict.ASKS,
            "impulses",
            f"the graph begins at {', '.join(new['impulses'])}, before at "
            f"{', '.join(old['impulses'])}; Flink tells them apart by their place, and one that it "
            "takes for new starts its source again",
            _TRY,
        )
    lost, added = (
        sorted(set(one["others"]) - set(other["others"])) for one, other in ((old, new), (new, old))
    )
    for name in lost:
        yield Difference(Verdict.FINE, name, "was removed or renamed; it keeps no state")
    for name in added:
        yield Difference(Verdict.FINE, name, "is new; it keeps no state")


def _apart(before: Iterable[str], after: Iterable[str]) -> tuple[list[str], list[str]]:
    """The names that only the first has, and those that only the second has."""
    return sorted(set(before) - set(after)), sorted(set(after) - set(before))


def _begun(names: Iterable[str], after: dict[str, Any]) -> Iterator[Difference]:
    for name in names:
        yield Difference(Verdict.FINE, name, f"is new and starts empty ({_kept(after[name])})")


def _kept(step: dict[str, Any]) -> str:
    states = ", ".join(sorted(step.get("states", ())))
    timers = ", ".join(sorted(step.get("timers", ())))
    told = [f"states {states}" if states else "", f"timers {timers}" if timers else ""]
    return ", ".join(filter(None, told)) or str(step["kind"])


def _changed(
    name: str, was: dict[str, Any], now: dict[str, Any], engine: str
) -> Iterator[Difference]:
    """What has changed of a step that is found again."""

    def breaks(what: str, do: str = _DRAIN) -> Difference:
        return Difference(Verdict.BREAKS, name, what, do)

    if was["kind"] != now["kind"]:
        yield breaks(f"was {was['kind']}, is {now['kind']}")
        return
    if was["elements"] != now["elements"]:
        told = f"takes {now['elements']}, took {was['elements']}"
        # Flink keeps the elements of a grouping, and those that are not read to their end.
        keyed = key_of(was["elements"]) == key_of(now["elements"])
        if engine == FLINK and keyed and was["kind"] not in (GROUPING, SPLITTABLE):
            yield Difference(Verdict.FINE, name, f"{told}; none is in a savepoint")
        else:
            yield breaks(told)
    if was["windows"] != now["windows"]:
        yield breaks(f"its input's windows are {now['windows']}, were {was['windows']}")
    for each in ("restriction", "side_inputs"):
        if was.get(each) != now.get(each):
            yield breaks(f"its {each.replace('_', ' ')} was {was.get(each)}, is {now.get(each)}")
    yield from _changed_states(name, was.get("states", {}), now.get("states", {}))
    yield from _changed_timers(name, was, now)


def _changed_states(name: str, was: dict[str, str], now: dict[str, str]) -> Iterator[Difference]:
    gone, come = _apart(was, now)
    for state in gone:
        told = f"state {state} ({was[state]}) was removed or renamed, with what it holds"
        yield Difference(Verdict.BREAKS, name, told, _DRAIN)
    for state in come:
        yield Difference(Verdict.FINE, name, f"state {state} is new and starts empty")
    for state in sorted(was.keys() & now.keys()):
        if was[state] != now[state]:
            told = f"state {state} is {now[state]}, was {was[state]}"
            yield Difference(Verdict.BREAKS, name, told, _DRAIN)


def _changed_timers(name: str, was: dict[str, Any], now: dict[str, Any]) -> Iterator[Difference]:
    before, after = was.get("timers", {}), now.get("timers", {})
    gone, come = _apart(before, after)
    for timer in gone:
        told = f"timer {timer} was removed or renamed: a pending one would fail the job"
        yield Difference(Verdict.BREAKS, name, told, _DRAIN)
    for timer in come:
        yield Difference(Verdict.FINE, name, f"timer {timer} is new")
    for timer in sorted(before.keys() & after.keys()):
        if before[timer] != after[timer]:
            told = f"timer {timer} is of {after[timer]}, was of {before[timer]}"
            yield Difference(Verdict.BREAKS, name, told, _DRAIN)
    if before and was.get("timers_of") != now.get("timers_of"):
        yield Difference(
            Verdict.BREAKS,
            name,
            f"its timers belong to {now.get('timers_of')}, belonged to {was.get('timers_of')}: a "
            "pending one would fail the job",
            _DRAIN,
        )
