"""What a Flink job tells at Flink's REST interface, and how it is ended there."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from typing import Any

_TIMEOUT_S = 5.0
# Flink refuses a question whose address is longer than 4,096 characters; a name can have a path in it.
_LONGEST = 2_000
# What event time is once nothing more comes (Long.MAX_VALUE).
_END = "9223372036854775807"
_RUNNING = "RUNNING"
# Flink's word for a checkpoint that is in memory alone.
_NOWHERE = "<checkpoint-not-externally-addressable>"
_LOOK_S = 0.5


class Unsaved(Exception):
    """A savepoint could not be made; the message says why."""


class Rest:
    """A job at a cluster; every question raises OSError or ValueError if there is no answer.

    Args:
        address: of the cluster, such as http://127.0.0.1:8081.
        name: the job's.
    """

    def __init__(self, address: str, name: str) -> None:
        self._address = address.rstrip("/")
        self._name = name
        self._id: str | None = None

    def counters(self, namespaces: frozenset[str]) -> dict[tuple[str, str], int]:
        """The sums of counters over all steps, by namespace and name."""
        found: dict[tuple[str, str], int] = {}
        for vertex in self._vertices():
            # Not the sums that Flink makes: it logs an error for each metric that is no number.
            path = f"{self._job()}/vertices/{vertex}/metrics"
            named = {
                each["id"]: key
                for each in self._get(path)
                if (key := _key(each["id"], namespaces)) is not None
            }
            for asked in _questions(named):
                for each in self._get(f"{path}?get={asked}"):
                    if (value := str(each.get("value") or 0)).isdigit():
                        key = named[each["id"]]
                        found[key] = found.get(key, 0) + int(value)
        return found

    def ended(self) -> bool:
        """Whether event time has come to its end in every step: nothing is waited for any more.

        False where the job does not run at the moment, or nothing is known of it yet.
        """
        if self.state() != _RUNNING:
            return False
        found = [
            str(each["value"])
            for vertex in self._vertices()
            for each in self._get(f"{self._job()}/vertices/{vertex}/watermarks")
        ]
        return bool(found) and all(value == _END for value in found)

    def checkpoints(self) -> int:
        """How many checkpoints are complete."""
        return int(self._get(f"{self._job()}/checkpoints")["counts"]["completed"])

    def checkpoint(self) -> str | None:
        """Where the last complete checkpoint or savepoint lies; None if there is none, or it lies nowhere."""
        latest = self._get(f"{self._job()}/checkpoints")["latest"]
        found = [each for each in (latest.get("completed"), latest.get("savepoint")) if each]
        path = max(found, key=lambda each: int(each["id"]))["external_path"] if found else _NOWHERE
        return None if path == _NOWHERE else str(path)

    def state(self) -> str:
        """The job's state, such as RUNNING, RESTARTING or FAILED."""
        return str(self._get(self._job())["state"])

    def stop(self, patience_s: float = 600.0) -> str:
        """Ends the job with a savepoint; returns where it lies.

        Raises:
            Unsaved: no savepoint could be made; the job continues.
        """
        try:
            asked = self._get(f"{self._job()}/stop", "POST", {"drain": False})["request-id"]
        except urllib.error.HTTPError as error:
            raise Unsaved(_reason(error.read().decode(errors="replace"))) from error
        path = f"{self._job()}/savepoints/{asked}"
        give_up = time.monotonic() + patience_s
        while (found := self._get(path))["status"]["id"] != "COMPLETED":
            if time.monotonic() > give_up:
                raise Unsaved(f"none was complete within {patience_s:.0f} s")
            time.sleep(_LOOK_S)
        done = found["operation"]
        if "location" not in done:
            raise Unsaved(_first_cause(str(done.get("failure-cause", {}).get("stack-trace", "?"))))
        return str(done["location"])

    def cancel(self) -> None:
        """Ends the job where it is."""
        self._get(f"{self._job()}?mode=cancel", "PATCH")

    def _job(self) -> str:
        if self._id is None:
            jobs = self._get("/jobs/overview")["jobs"]
            # A job that is over keeps its name.
            live = [job for job in jobs if job["name"] == self._name and job["end-time"] < 0]
            if not live:
                raise ValueError(f"{self._address} has no job {self._name} that runs")
            self._id = max(live, key=lambda job: int(job["start-time"]))["jid"]
        return f"/jobs/{self._id}"

    def _vertices(self) -> list[str]:
        return [vertex["id"] for vertex in self._get(self._job())["vertices"]]

    def _get(self, path: str, method: str = "GET", body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310
            f"{self._address}{path}", data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                return json.loads(answer.read() or b"{}")
        except http.client.HTTPException as error:
            raise ValueError(f"{self._address}: {error!r}") from error


def _key(metric: str, namespaces: frozenset[str]) -> tuple[str, str] | None:
    """Namespace and name of a counter of ours; Flink names it `subtask.step.namespace_name`."""
    namespace, _, name = metric.rpartition(".")[2].partition("_")
    return (namespace, name) if name and namespace in namespaces else None


def _reason(answer: str) -> str:
    """What a refusal says is wrong."""
    with contextlib.suppress(ValueError, AttributeError):
        answer = " ".join(json.loads(answer)["errors"])
    return _first_cause(answer)


def _first_cause(trace: str) -> str:
    """The line of a stack trace that tells what it began with."""
    causes = re.findall(r"Caused by: (?:[\w.$]+: )?(.+)", trace)
    return str(causes[-1] if causes else next(iter(trace.strip().splitlines()), "?"))[:300]


def _questions(names: Iterable[str]) -> Iterator[str]:
    """Names as a question's address has them, in parts that are short enough."""
    part = ""
    for name in names:
        quoted = urllib.parse.quote(name, safe="")
        if part and len(part) + len(quoted) >= _LONGEST:
            yield part
            part = ""
        part = f"{part},{quoted}" if part else quoted
    if part:
        yield part
