"""Understands a unit however an export spells it: SI prefix and symbol or word, per dimension."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache


class Dimension(StrEnum):
    """What a field measures, which says what its units can be."""

    VOLTAGE = "voltage"
    CURRENT = "current"
    CHARGE = "charge"
    ENERGY = "energy"
    TIME = "time"
    RESISTANCE = "resistance"
    TEMPERATURE = "temperature"
    FREQUENCY = "frequency"
    INSTANT = "instant"  # a point in time: a unit is that of a number counted since 1970
    NONE = "none"


@dataclass(frozen=True)
class Unit:
    """A unit: its value x scale + offset is in V, A, Ah, Wh, s, ohm, degC or Hz."""

    text: str
    scale: float
    offset: float = 0.0


# Small prefixes only: no cell is measured in megavolts, but headers in capitals are met.
_PREFIXES = {"": 1.0, "k": 1e3, "m": 1e-3, "u": 1e-6, "μ": 1e-6, "n": 1e-9, "p": 1e-12}
_WORDS = {"milli": 1e-3, "micro": 1e-6, "nano": 1e-9, "kilo": 1e3}

# Every symbol and word of a dimension without prefix, by its factor; all in lower case, without
# the signs between parts (`A.h`, `A*h` and `Amp-hr` are `ah` and `amphr`).
_SYMBOLS: dict[Dimension, dict[str, float]] = {
    Dimension.VOLTAGE: dict.fromkeys(("v", "volt", "volts", "伏"), 1.0),
    Dimension.CURRENT: dict.fromkeys(
        ("a", "amp", "amps", "ampere", "amperes", "安"), 1.0
    ),
    Dimension.CHARGE: {
        **dict.fromkeys(
            ("ah", "amph", "amphr", "amphrs", "amphour", "amphours", "ampereh", "amperehour",
             "amperehours", "ahr", "ahrs", "安时"), 1.0,
        ),
        **dict.fromkeys(("coulomb", "coulombs", "as", "ampsec", "amperesecond"), 1 / 3600),
    },
    Dimension.ENERGY: {
        **dict.fromkeys(
            ("wh", "watthr", "watthrs", "watthour", "watthours", "wattshr", "whr", "瓦时"), 1.0
        ),
        **dict.fromkeys(("j", "joule", "joules", "ws", "wattsecond"), 1 / 3600),
    },
    Dimension.RESISTANCE: dict.fromkeys(("ohm", "ohms", "Ω", "ω"), 1.0),
    Dimension.FREQUENCY: dict.fromkeys(("hz", "hertz"), 1.0),
}  # fmt: skip

_SECONDS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds", "秒"), 1.0),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds", "毫秒"), 1e-3),
    **dict.fromkeys(("us", "μs", "usec", "microsecond", "microseconds"), 1e-6),
    **dict.fromkeys(("ns", "nanosecond", "nanoseconds"), 1e-9),
    **dict.fromkeys(("min", "mins", "minute", "minutes", "分"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours", "小时", "时"), 3600.0),
    **dict.fromkeys(("d", "day", "days", "天"), 86400.0),
}

_TEMPERATURES = {
    **dict.fromkeys(("c", "°c", "degc", "celsius", "degcelsius", "degreecelsius", "degreesc",
                     "degreescelsius", "ºc", "â°c", "摄氏度"), (1.0, 0.0)),
    **dict.fromkeys(("k", "kelvin", "degk"), (1.0, -273.15)),
    **dict.fromkeys(("f", "°f", "degf", "fahrenheit"), (5 / 9, -160 / 9)),
}  # fmt: skip

# How a column in clock notation describes itself: `h:min:s.ms`, `Hours in hh:mm:ss.xxx`.
_CLOCK = re.compile(
    r"(?:hours? in )?(?:d+[ :])?h{1,2}(?:rs?)?:m(?:m|in)?(?::s{1,2}(?:\.\w+)?)?", re.IGNORECASE
)

# Zones, patterns such as `yyyy-mm-dd`, and the days of spreadsheets.
_ZONES = re.compile(
    r"(?:utc|gmt|local|zulu|z)(?:[+-]\d{1,2}(?::?\d\d)?)?|date(?:[ _]?time)?|d(?:ays?)?"
    r"|(?=.*m)(?=.*d)[ymdhsaptf\W\d_]+",
    re.IGNORECASE,
)


# Putting a run of accents in order takes the square of its length.
_LONGEST_TEXT = 1024


def canonical(text: str) -> str:
    """A text in one spelling of its signs: full-width and look-alike characters as plain ones.

    A text of more than 1,024 characters is no name and no unit, and stays as it is.
    """
    if len(text) > _LONGEST_TEXT:
        return text
    # NFKC makes µ (micro sign) the Greek μ, ℃ two signs, full-width brackets plain ones; the
    # ohm sign becomes the Greek capital.
    return unicodedata.normalize("NFKC", text)


def is_clock_notation(text: str) -> bool:
    """Whether a text describes times written as hours, minutes and seconds: `h:min:s.ms`."""
    return _CLOCK.fullmatch(canonical(text).strip()) is not None


@lru_cache(maxsize=4096)
def parse(text: str, dimension: Dimension) -> Unit | None:
    """The unit that a text names for a dimension, or None if it is not understood.

    >>> parse("mA.h", Dimension.CHARGE)
    Unit(text='mA.h', scale=0.001, offset=0.0)
    >>> parse("furlong", Dimension.CURRENT) is None
    True
    """
    shown = canonical(text).strip()
    if dimension is Dimension.NONE:
        return Unit(shown, 1.0)
    if dimension is Dimension.INSTANT:
        return _instant(shown)
    if dimension is Dimension.TIME and _CLOCK.fullmatch(shown):
        return Unit(shown, 1.0)
    plain = re.sub(r"[\s.*·⋅_-]+", "", shown)
    lower = plain.casefold()
    if dimension is Dimension.TIME:
        scale = _SECONDS.get(lower)
        return None if scale is None else Unit(shown, scale)
    if dimension is Dimension.TEMPERATURE:
        found = _TEMPERATURES.get(lower)
        return None if found is None else Unit(shown, *found)
    symbols = _SYMBOLS[dimension]
    if dimension is Dimension.FREQUENCY and plain.startswith("M") and lower == "mhz":
        return Unit(shown, 1e6)  # the only dimension in which millions are met
    # Each sign or word may be a prefix or a symbol of its own; the whole is tried first.
    for prefixes in (_PREFIXES, _WORDS):
        for prefix, factor in prefixes.items():
            if lower.startswith(prefix) and (base := symbols.get(lower[len(prefix) :])):
                return Unit(shown, factor * base)
    return None


def _instant(shown: str) -> Unit | None:
    scale = _SECONDS.get(shown.casefold())
    if scale is not None and scale <= 1.0:
        return Unit(shown, scale)
    # A zone or a pattern is no unit; which it is the values show.
    return Unit(shown, 1.0) if _ZONES.fullmatch(shown) or _CLOCK.fullmatch(shown) else None
