"""Which of the lake's files have been loaded: files beside the lake, made once and never changed.

An entry `0000007.json` names the files of one load job. Entries are numbered without a gap, and a
number is taken by creating its file, which only one can: so two loaders never give a file to two
entries. `0000007.done`, `.failed` or `.split` tells what became of it; an entry with none of them
is finished by whoever comes next.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from pipeline.stores import Store, Stored

# BigQuery takes so many files a job.
MOST_FILES = 10_000
# Far below what it takes, so that a job takes minutes.
MOST_BYTES = 256 << 30
# It touches at most 4,000 partitions a job.
MOST_DAYS = 2_000
# Clocks of a store's servers may differ by this. Nothing appears earlier than what was listed.
_MARGIN_S = 600.0
_ENTRY = re.compile(r"(\d{7})(?:-[01])*")
_OUTCOMES = ("done", "failed", "split")


@dataclass(frozen=True)
class Entry:
    """The files of one load job.

    Attributes:
        name: its number; `-0` and `-1` behind it are the halves of one that failed.
        paths: the files, below the lake.
        seen_s: when the youngest file that had been listed was written, seconds since 1970.
        before_s: every file that was written before is in this entry or an earlier one.
    """

    name: str
    paths: tuple[str, ...]
    seen_s: float = 0.0
    before_s: float = 0.0

    @property
    def halves(self) -> tuple[Entry, Entry]:
        """Two entries with half of the files each."""
        half = len(self.paths) // 2
        first, second = self.paths[:half], self.paths[half:]
        return Entry(f"{self.name}-0", first), Entry(f"{self.name}-1", second)


class Ledger:
    """The entries of one table.

    Args:
        store: where they are kept, for nothing else.
        folder: below it, of this table.
    """

    def __init__(self, store: Store, folder: str) -> None:
        self._store, self._folder = store, folder
        # Entries never change.
        self._read: dict[str, Entry] = {}

    def unfinished(self) -> list[Entry]:
        """The entries whose outcome is not known, in order."""
        entries, outcomes = self._names()
        return [self._entry(name) for name in sorted(entries - set(outcomes))]

    def failed(self) -> list[str]:
        """The files that were set aside."""
        _, outcomes = self._names()
        names = sorted(name for name, outcome in outcomes.items() if outcome == "failed")
        return [path for name in names for path in self._entry(name).paths]

    def enter_new(self, lake: Store, folder: str) -> Iterator[Entry]:
        """Enters the lake's files that are in no entry yet; gives every entry once it is made."""
        while True:
            last, known, before_s = self._latest()
            listed = [
                file for file in lake.files(folder, before_s or None)
                if file.path.endswith(".parquet")
            ]  # fmt: skip
            new = sorted(file for file in listed if file.path not in known)
            if not new:
                return
            chosen = _one_job(new)
            seen_s = max(file.modified_s for file in listed)
            # Only when all that was listed is entered, nothing older is to come.
            after_s = max(before_s, seen_s - _MARGIN_S) if len(chosen) == len(new) else before_s
            entry = Entry(f"{last + 1:07}", tuple(f.path for f in chosen), seen_s, after_s)
            # If another loader took the number, its entry may hold some of these files.
            if self.enter(entry):
                yield entry

    def enter(self, entry: Entry) -> bool:
        """Makes an entry; False if there is one of that name, which stays as it is."""
        return self._store.create(f"{self._folder}/{entry.name}.json", orjson.dumps(asdict(entry)))

    def close(self, entry: Entry, outcome: str, **told: Any) -> None:
        """Notes what became of an entry."""
        assert outcome in _OUTCOMES
        self._store.create(f"{self._folder}/{entry.name}.{outcome}", orjson.dumps(told))

    def _names(self) -> tuple[set[str], dict[str, str]]:
        entries, outcomes = set(), {}
        for file in self._store.files(self._folder):
            name, _, kind = file.path.rpartition("/")[2].partition(".")
            if not _ENTRY.fullmatch(name):
                continue
            if kind == "json":
                entries.add(name)
            elif kind in _OUTCOMES:
                outcomes[name] = kind
        return entries, outcomes

    def _latest(self) -> tuple[int, set[str], float]:
        """The last number, the files that might be listed but are entered, and since when to list.

        What was written before that is entered, so that neither all of the lake nor all entries
        are looked at.
        """
        entries, _ = self._names()
        numbers = sorted((name for name in entries if "-" not in name), reverse=True)
        if not numbers:
            return 0, set(), 0.0
        before_s, known = self._entry(numbers[0]).before_s, set[str]()
        for name in numbers:
            entry = self._entry(name)
            if entry.seen_s < before_s:
                break
            known.update(entry.paths)
        return int(numbers[0]), known, before_s

    def _entry(self, name: str) -> Entry:
        if name not in self._read:
            with self._store.open(f"{self._folder}/{name}.json") as file:
                kept = orjson.loads(file.read())
            self._read[name] = Entry(**{**kept, "paths": tuple(kept["paths"])})
        return self._read[name]


def _one_job(files: Sequence[Stored]) -> list[Stored]:
    """As many of the files, from the first on, as one job takes; one at least."""
    chosen: list[Stored] = []
    size, days = 0, set[str]()
    for file in files[:MOST_FILES]:
        size += file.size
        days.add(file.path.rpartition("/")[0])
        if chosen and (size > MOST_BYTES or len(days) > MOST_DAYS):
            break
        chosen.append(file)
    return chosen
