"""Parameters are read from text; a wrong one is named with its fix."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pipeline.errors import ConfigError
from pipeline.sources.simulation.config import FleetConfig
from pipeline.sources.simulation.fleet import Fleet
from tests.pipeline.sources.simulation.reading import columns_of


def test_parameters_are_read_from_text() -> None:
    config = FleetConfig.parse(
        {
            "equipment": "50",
            "machines": "0",
            "readings": "1000",
            "interval": "2.5",
            "start": "2023-05-01",
            "faults": "0.01",
        }
    )
    assert config == FleetConfig(
        equipment=50, machines=0, readings=1000, interval=2.5, start="2023-05-01", faults=0.01
    )
    first = columns_of(Fleet(config), 0)["recorded_at_us"][0]
    begins = datetime(2023, 5, 1, tzinfo=UTC).timestamp() * 1e6
    assert 0 <= first - begins <= 2_500_000
    assert FleetConfig.parse({}) == FleetConfig()
    assert FleetConfig().machine_count == 2


@pytest.mark.parametrize(
    ("name", "text", "fix"),
    [
        ("equipment", "many", "a whole number"),
        ("equipment", "0", "between 1"),
        ("machines", "9", "between 0 and 8"),
        ("cycles", "1.5", "a whole number"),
        ("interval", "fast", "a number"),
        ("interval", "nan", "between 0.1"),
        ("readings", "-1", "between 1"),
        ("seed", "-1", "between 0"),
        ("start", "yesterday", "ISO 8601"),
        ("start", "1803-01-01", "between 1970"),
        ("faults", "1.5", "between 0.0 and 1.0"),
        ("late", "-0.1", "between 0.0 and 1.0"),
        ("duplicates", "x", "a number"),
        ("nominal_ah", "0", "between 0.1"),
        ("temperature", "200", "between -20"),
        ("noise", "-1", "between 0.0"),
        ("omit", "voltage_v", "of cycle_index, steps, counters"),
        ("protocol", "partially", "one of cycling, partial, drive"),
        ("chemistry", "lto", "one of default, lco, nmc, lfp"),
        ("sampling", "often", "one of regular, irregular, voltage"),
        ("fade", "-1", "between 0.0"),
        ("fade", "much", "a number"),
        ("knee", "0", "between 1"),
        ("temperature_swing", "40", "between 0.0"),
        ("temperature_period", "0", "between 0.5"),
        ("cold_week", "-1", "between 0"),
    ],
)
def test_a_wrong_value_is_named_with_its_fix(name: str, text: str, fix: str) -> None:
    with pytest.raises(ConfigError) as raised:
        FleetConfig.parse({name: text})
    message = str(raised.value)
    assert f"'{name}'" in message
    assert fix in message
    assert f"simulator:?{name}=" in message


def test_an_unknown_parameter_is_answered_with_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match=r"'equipments'.*did you mean 'equipment'.*duplicates"):
        FleetConfig.parse({"equipments": "8"})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"soc_min": "0.1"}, r"'soc_min' needs protocol=partial or mixed, not 'cycling'"),
        ({"per_index": "2", "protocol": "drive"}, r"'per_index' needs protocol=formation"),
        ({"reference_every": "5"}, r"simulator:\?protocol=partial&reference_every=5"),
        ({"voltage_step": "5"}, r"'voltage_step' needs sampling=voltage, not 'regular'"),
        ({"protocol": "partial", "soc_min": "0.9"}, r"'soc_max' must be between 0.95 and 1"),
        ({"protocol": "partial", "soc_max": "0.1"}, r"'soc_max' must be between 0.35 and 1"),
        ({"protocol": "pulse", "reference_every": "-1"}, r"'reference_every' must be between 0"),
        ({"protocol": "formation", "per_index": "0"}, r"'per_index' must be between 1 and 20"),
        ({"sampling": "voltage", "voltage_step": "0"}, r"'voltage_step' must be between 0.5"),
    ],
)
def test_a_parameter_that_would_do_nothing_is_named_with_its_setting(
    given: dict[str, str], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        FleetConfig.parse(given)


def test_cells_are_in_steps_where_a_parameter_needs_it() -> None:
    assert not FleetConfig.parse({"noise": "2", "omit": "counters", "cycles": "9"}).in_steps
    for name, value in (("protocol", "drive"), ("chemistry", "lfp"), ("sampling", "irregular"),
                        ("fade", "0"), ("knee", "50"), ("temperature_swing", "5"),
                        ("cold_week", "0")):  # fmt: skip
        config = FleetConfig.parse({name: value})
        assert config.in_steps
        assert str(getattr(config, name)).startswith(value)
    assert FleetConfig.parse({"omit": "counters,steps"}).omitted == ("counters", "steps")
