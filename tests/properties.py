"""How property-based tests run: the same examples every time, unless one goes looking for more."""

import os

from hypothesis import HealthCheck, settings

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

settings.register_profile(
    "ci", derandomize=True, deadline=None, database=None, max_examples=40,
    suppress_health_check=SLOW,
)  # fmt: skip
settings.register_profile(
    "explore", deadline=None, database=None, max_examples=1_000, suppress_health_check=SLOW
)


def use_profile() -> None:
    """Takes the profile that HYPOTHESIS_PROFILE names: `ci` (default) or `explore`."""
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
