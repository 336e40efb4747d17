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
