"""What a running Flink job tells at Flink's REST interface: its counters, watermarks, checkpoints."""

from __future__ import annotations

import http.client
import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

_TIMEOUT_S = 5.0
# Names in one question, so that its address stays short.
_AT_ONCE = 40
# What event time is once nothing more comes (Long.MAX_VALUE).
_END = "9223372036854775807"
_RUNNING = "RUNNING"


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
            path = f"{self._job()}/vertices/{vertex}/subtasks/metrics"
            named = {
                each["id"]: key
                for each in self._get(path)
                if (key := _key(each["id"], namespaces)) is not None
            }
            for names in _some(list(named)):
                asked = ",".join(urllib.parse.quote(name, safe="") for name in names)
                for each in self._get(f"{path}?get={asked}&agg=sum"):
                    key = named[each["id"]]
                    found[key] = found.get(key, 0) + int(each.get("sum") or 0)
        return found

    def ended(self) -> bool:
        """Whether event time has come to its end in every step: nothing is waited for any more.

        False where the job does not run at the moment, or nothing is known of it yet.
        """
        if self._get(self._job())["state"] != _RUNNING:
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

    def _get(self, path: str, method: str = "GET") -> Any:
        request = urllib.request.Request(f"{self._address}{path}", method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                return json.loads(answer.read() or b"{}")
        except http.client.HTTPException as error:
            raise ValueError(f"{self._address}: {error!r}") from error


def _key(metric: str, namespaces: frozenset[str]) -> tuple[str, str] | None:
    """Namespace and name of a counter of ours; Flink names it `step.namespace_name`."""
    namespace, _, name = metric.rpartition(".")[2].partition("_")
    return (namespace, name) if name and namespace in namespaces else None


def _some(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), _AT_ONCE):
        yield names[start : start + _AT_ONCE]
