"""Health followed from cycle to cycle: once per cycle, the same over a restart, and what is in doubt."""

from __future__ import annotations

import datetime as dt
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that

from transforms.health import Segment
from transforms.prediction.curves import SCHEMA, _packed, cycle_segments
from transforms.prediction.follow import Follow, Memory

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def row(number: int, capacity: float | None, name: str = "cell", **more: Any) -> dict[str, Any]:
    return {
        "equipment_id": name,
        "cycle_id": f"{name}-{number}",
        "version": 1,
        "cycle_number": number,
        "ended_at": START + dt.timedelta(hours=2 * number),
        "duration_s": 7200.0,
        "is_whole": True,
        "throughput_ah": 4.0 * number,
        "capacity_ah": capacity,
        "temperature_c": 25.0,
        "resistance_ohm": 0.05,
        "nominal_ah": 2.0,
        "v_min_v": 2.7,
        "v_max_v": 4.2,
        "chemistry": None,
        "threshold_soh": 0.8,
        "sizes": [],
        "skipped_ah": [],
        "values": [],
    } | more


def fading(cycles: int, name: str = "cell") -> list[dict[str, Any]]:
    return [row(number, 2.0 - 0.002 * number, name) for number in range(1, cycles + 1)]


def test_a_fading_cell_is_followed() -> None:
    memory = Memory.from_bytes(None)
    for each in fading(60):
        asked = memory.follow(each)
        assert asked is not None
    assert asked.cycle_number == 60 and asked.cycle_s == pytest.approx(7200.0)
    assert asked.health.soh == pytest.approx((2.0 - 0.12) / (2.0 - 0.002), abs=0.01)
    assert asked.features.is_fading and asked.features.margin == pytest.approx(0.14, abs=0.015)
    assert asked.reasons == ()
    assert len(memory.to_bytes()) < 8_192


def test_a_cycle_counts_once_and_in_order() -> None:
    memory = Memory.from_bytes(None)
    for each in fading(10):
        memory.follow(each)
    before = memory.to_bytes()
    assert memory.follow(row(10, 1.0)) is None
    assert memory.follow(row(3, 1.0)) is None
    assert memory.to_bytes() == before


def test_what_is_remembered_goes_on_as_if_nothing_had_been() -> None:
    through, restarted = Memory.from_bytes(None), Memory.from_bytes(None)
    for each in fading(40):
        one, other = through.follow(each), restarted.follow(each)
        restarted = Memory.from_bytes(restarted.to_bytes())
        assert one is not None and other is not None
        assert other.health.soh == pytest.approx(one.health.soh, abs=1e-9)
        assert other.cycle_s == pytest.approx(one.cycle_s, nan_ok=True)
        assert other.features.margin == pytest.approx(one.features.margin, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("data", [b"x", b"\x05\x00\x00\x00", b"\xff" * 40])
def test_what_another_version_kept_begins_again(data: bytes) -> None:
    assert Memory.from_bytes(data).number == 0


def test_windows_alone_are_told() -> None:
    memory = Memory.from_bytes(None)
    for each in fading(20):
        memory.follow(each)
    part = memory.follow(row(50, None, is_whole=False))
    assert part is not None
    assert "soh: not all of the cycle was seen" in part.reasons
    assert any("soh:" in reason for reason in part.reasons)


def test_segments_travel_as_they_are() -> None:
    volts = np.linspace(3.5, 4.0, 20)
    amount = np.linspace(0.0, 1.0, 20)
    given = [
        Segment(volts, amount, 60.0 * np.arange(20), np.full(20, 1.0), np.full(20, 25.0), 0.1),
        Segment(volts[::-1], amount, 60.0 * np.arange(20), np.full(20, -1.0)),
    ]
    sent = row(1, None, sizes=[20, 20], skipped_ah=[0.1, 0.0], values=_packed(given).tolist())
    table = pa.Table.from_pylist([sent], schema=SCHEMA)
    cycle, known = cycle_segments(table.to_pylist()[0])
    assert known.nominal_ah == 2.0 and known.chemistry is None
    for one, other in zip(given, cycle.segments, strict=True):
        np.testing.assert_array_equal(one.voltage_v, other.voltage_v)
        np.testing.assert_array_equal(one.current_a, other.current_a)
        assert one.skipped_ah == other.skipped_ah
        assert (one.temperature_c is None) == (other.temperature_c is None)


def test_cells_are_followed_each_on_its_own() -> None:
    def right(found: list[Any]) -> None:
        numbers = sorted((asked.equipment_id, asked.cycle_number) for asked in found)
        assert numbers == [("a", n) for n in range(1, 31)] + [("b", n) for n in range(1, 36)]
        last = next(asked for asked in found if asked.cycle_number == 35)
        assert last.health.soh == pytest.approx((2.0 - 0.07) / 1.998, abs=0.01)

    with TestPipeline() as pipeline:
        more = [*fading(30, "a"), *fading(35, "b")]
        curves = pipeline | "Rows" >> beam.Create([pa.Table.from_pylist(more, schema=SCHEMA)])
        assert_that((curves | Follow()).asked, right)


def test_what_an_earlier_run_knew_is_taken_and_counts_no_cycle_again() -> None:
    memory = Memory.from_bytes(None)
    for each in fading(30, "b"):
        memory.follow(each)

    def nothing_more(found: list[Any]) -> None:
        assert found == []

    def known_again(found: list[tuple[str, bytes]]) -> None:
        assert found == [("b", memory.to_bytes())]

    with TestPipeline() as pipeline:
        none = pipeline | "Rows" >> beam.Create([SCHEMA.empty_table()])
        known = pipeline | "Known" >> beam.Create([("b", memory.to_bytes())])
        followed = {"curves": none, "remembered": known} | Follow()
        assert_that(followed.asked, nothing_more, "Asked")
        assert_that(followed.memory, known_again, "Kept")
