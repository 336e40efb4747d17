"""A warehouse's outage: waited out with growing pauses, told once, and not for ever."""

from __future__ import annotations

import time

import pytest

from pipeline.errors import WarehouseFailed
from pipeline.sinks.base import waiting
from pipeline.sinks.base.outage import Outage

TOLD = "--warehouse=cassandra://h:9042/fleet, table sensor_data"


def outage(patience_s: float) -> Outage:
    return Outage(TOLD, patience_s, 0.05, "start the nodes")


def test_a_long_one_is_told_once_and_its_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "FIRST_S", 0.1)
    found = outage(60.0)
    for _ in range(8):
        found.wait("no node answers", time.monotonic())
    assert found.lasted_s > 0.1
    found.over()
    found.over()
    assert found.lasted_s == 0.0
    assert len(caplog.messages) == 2
    assert (
        caplog.messages[0]
        == f"{TOLD}: no node answers; waiting for 0 s, trying again for up to 60 s"
    )
    assert caplog.messages[1].startswith(f"{TOLD}: goes on, after ")


def test_a_short_one_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    found = outage(60.0)
    found.wait("busy", time.monotonic())
    found.over()
    assert caplog.messages == []


def test_what_failed_in_an_outage_that_is_over_is_sent_again_at_once() -> None:
    found = Outage(TOLD, 60.0, 5.0, "start the nodes")
    sent_s = time.monotonic()
    found.wait("no node answers", sent_s)
    found.over()
    began = time.monotonic()
    for _ in range(100):
        found.wait("no node answers", sent_s)
    assert time.monotonic() - began < 0.1
    assert found.lasted_s == 0.0


def test_patience_ends_with_the_fix_and_stays_at_its_end() -> None:
    found = outage(0.3)

    def wait_on() -> None:
        for _ in range(100):
            found.wait("no node answers", time.monotonic())

    with pytest.raises(WarehouseFailed) as raised:
        wait_on()
    assert str(raised.value).startswith(f"{TOLD}: no node answers, for ")
    assert "start the nodes, then run the job again" in str(raised.value)
    # A runner tries a failed bundle again: that must not begin anew.
    with pytest.raises(WarehouseFailed):
        found.wait("no node answers", time.monotonic())
