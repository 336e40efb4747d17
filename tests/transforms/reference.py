"""What `transforms.sequence` must give, worked out reading by reading and without haste.

Written from the specification alone, not from the code under test: plain Python, one test of one
equipment after another.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

COUNTERS = (
    "charge_capacity_ah",
    "discharge_capacity_ah",
    "charge_energy_wh",
    "discharge_energy_wh",
)
GAP_S, GAP_CV_S, STUCK = 120.0, 1800.0, 10
CV_FROM_V = 4.18  # 20 mV below the 4.2 V that cells are charged to


def expected(readings: list[dict[str, Any]]) -> tuple[dict[str, dict[str, Any]], int]:
    """Per reading's `name`: time_delta_s, the four amounts, and the set of flags; and duplicates.

    A reading has `equipment_id`, `test_id`, `seconds` (event time), `voltage_v`, `current_a`, and
    maybe `test_time_s`, `record_index`, `source_file`, `step_index`, `cycle_index`, counters.
    """
    first_copy: dict[tuple[Any, ...], dict[str, Any]] = {}
    for reading in readings:
        key = _key(reading)
        kept = first_copy.get(key)
        if kept is None or (reading.get("source_file") or "") < (kept.get("source_file") or ""):
            first_copy[key] = reading
    tests: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for reading in first_copy.values():
        tests[reading["equipment_id"], reading["test_id"]].append(reading)
    out: dict[str, dict[str, Any]] = {}
    for test in tests.values():
        test.sort(key=_place)
        before, run, interval = None, 0, None
        for reading in test:
            found, run = _one(before, reading, run, interval)
            out[reading["name"]] = found
            before, interval = reading, found["time_delta_s"]
    return out, len(readings) - len(first_copy)


def _key(reading: dict[str, Any]) -> tuple[Any, ...]:
    named = (reading.get("test_time_s"), reading.get("record_index"))
    values = () if named[1] is not None else tuple(
        reading.get(name) for name in ("voltage_v", "current_a", "step_index", "cycle_index", *COUNTERS)
    )  # fmt: skip
    return (reading["equipment_id"], reading["seconds"], *named, *values)


def _place(reading: dict[str, Any]) -> tuple[float, float, float]:
    elapsed, index = reading.get("test_time_s"), reading.get("record_index")
    return (
        reading["seconds"],
        math.inf if elapsed is None else elapsed,
        math.inf if index is None else index,
    )


def _in_cv(reading: dict[str, Any]) -> bool:
    return bool(reading["current_a"] > 0 and reading["voltage_v"] >= CV_FROM_V)


def _one(
    before: dict[str, Any] | None, now: dict[str, Any], run: int, interval: float | None
) -> tuple[dict[str, Any], int]:
    flags: set[str] = set()
    found: dict[str, Any] = {"flags": flags, "time_delta_s": None}
    found |= dict.fromkeys(("charge_ah", "discharge_ah", "charge_wh", "discharge_wh"), 0.0)
    if before is None:
        return found, 1
    delta = now["seconds"] - before["seconds"]
    if before.get("test_time_s") is not None and now.get("test_time_s") is not None:
        by_test = now["test_time_s"] - before["test_time_s"]
        delta = by_test if by_test >= 0 else delta
    found["time_delta_s"] = delta

    is_gap = delta > (GAP_CV_S if _in_cv(before) and _in_cv(now) else GAP_S)
    # As long as usual is none: the same test's previous interval tells.
    is_gap = is_gap and not (interval is not None and delta <= 4 * interval)
    if is_gap:
        flags.add("gap")

    current, last = now["current_a"], before["current_a"]
    same_current = current != 0 and abs(current - last) <= 0.01 * abs(current)
    repeats = now["voltage_v"] == before["voltage_v"] and same_current and not _in_cv(now)
    run = run + 1 if repeats else 1
    if run >= STUCK:
        flags.add("stuck")

    for name in COUNTERS:
        if before.get(name) is None or now.get(name) is None:
            continue
        rise = now[name] - before[name]
        if rise < -1e-9:
            could_flow = max(abs(current), abs(last)) * delta / 3600
            restarted = now[name] <= 0.5 * before[name] or now[name] <= 1.5 * could_flow
            flags.add("counter_reset" if restarted else "counter_dip")
        if name.endswith("_ah") and rise > max(abs(current), abs(last)) * delta / 3600 + 0.010:
            flags.add("counter_jump")

    if not is_gap:
        in_step = (
            now.get("step_index") == before.get("step_index")
            and now.get("cycle_index") == before.get("cycle_index")
            and (current > 0) - (current < 0) == (last > 0) - (last < 0)
        )
        for unit, value, earlier in (
            ("ah", current, last),
            ("wh", current * now["voltage_v"], last * before["voltage_v"]),
        ):
            height = (value + earlier) / 2 if in_step else value
            amount = height * delta / 3600
            found["charge_" + unit if amount >= 0 else "discharge_" + unit] = abs(amount)
    return found, run
