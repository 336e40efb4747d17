"""All scenarios, by name."""

from __future__ import annotations

from collections.abc import Callable

from tests.endurance import event_time, fading, failures, million, odd_input, random_topics
from tests.endurance.rig import Rig

SCENARIOS: dict[str, Callable[[Rig], dict[str, int]]] = {
    scenario.__name__: scenario
    for scenario in (
        failures.calm,
        failures.crashes,
        failures.accounts,
        fading.fading,
        failures.broker_restarts,
        failures.broker_crashes,
        failures.idle_partition,
        failures.takeover_by_crash,
        failures.takeover_by_drain,
        failures.partitions_added,
        failures.topic_deleted,
        odd_input.poison,
        odd_input.keyless,
        odd_input.clock_ahead,
        odd_input.clock_behind,
        odd_input.late,
        odd_input.start_at_time,
        odd_input.start_at_latest,
        odd_input.timely,
        event_time.old_and_new,
        event_time.ahead_and_behind,
        event_time.added_partition,
        event_time.stragglers,
        random_topics.random_topic,
        million.million,
    )
}
