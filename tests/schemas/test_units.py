"""A unit is understood however it is spelled; one that is not is never taken for another."""

import doctest
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import units
from schemas.units import Dimension, Unit, is_clock_notation, parse

PREFIXES = {"": 1.0, "m": 1e-3, "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "n": 1e-9, "k": 1e3}
BASES = {
    Dimension.VOLTAGE: {"V": 1.0, "Volt": 1.0, "volts": 1.0},
    Dimension.CURRENT: {"A": 1.0, "Amp": 1.0, "Amps": 1.0, "ampere": 1.0},
    Dimension.CHARGE: {"Ah": 1.0, "A.h": 1.0, "A*h": 1.0, "A·h": 1.0, "Amp-hr": 1.0, "A h": 1.0,
                       "As": 1 / 3600, "Coulomb": 1 / 3600},
    Dimension.ENERGY: {"Wh": 1.0, "W.h": 1.0, "Watt-hr": 1.0, "J": 1 / 3600, "Ws": 1 / 3600},
    Dimension.RESISTANCE: {"Ohm": 1.0, "ohms": 1.0, "Ω": 1.0, "\u2126": 1.0},
    Dimension.FREQUENCY: {"Hz": 1.0, "Hertz": 1.0},
}  # fmt: skip
SPELLED = [(d, base, factor) for d, bases in BASES.items() for base, factor in bases.items()]


@given(what=st.sampled_from(SPELLED), prefix=st.sampled_from(sorted(PREFIXES)),
       space=st.sampled_from(["", " "]), upper=st.booleans())  # fmt: skip
def test_a_prefix_is_never_lost(what, prefix, space, upper):
    dimension, base, factor = what
    text = f"{space}{prefix}{base}{space}"
    if upper and not (prefix == "m" and dimension is Dimension.FREQUENCY):
        text = text.upper()
    found = parse(text, dimension)
    assert found is not None
    assert found.scale == pytest.approx(PREFIXES[prefix] * factor)
    assert found.text == unicodedata.normalize("NFKC", text).strip()


@pytest.mark.parametrize(
    ("text", "dimension", "scale"),
    [
        ("milliamps", Dimension.CURRENT, 1e-3), ("microampere", Dimension.CURRENT, 1e-6),
        ("millivolts", Dimension.VOLTAGE, 1e-3), ("kilohertz", Dimension.FREQUENCY, 1e3),
        ("nanoamps", Dimension.CURRENT, 1e-9), ("MHz", Dimension.FREQUENCY, 1e6),
        ("mHz", Dimension.FREQUENCY, 1e-3), ("毫秒", Dimension.TIME, 1e-3),
        ("安时", Dimension.CHARGE, 1.0), ("m安", Dimension.CURRENT, 1e-3), ("伏", Dimension.VOLTAGE, 1.0),
        ("mＡ", Dimension.CURRENT, 1e-3),
    ],
)  # fmt: skip
def test_words_and_signs_of_other_alphabets(text, dimension, scale):
    assert parse(text, dimension).scale == pytest.approx(scale)


@pytest.mark.parametrize(
    ("spellings", "scale"),
    [
        (("s", "sec", "Seconds", "秒"), 1.0), (("ms", "msec", "milliseconds"), 1e-3),
        (("us", "µs", "microsecond"), 1e-6), (("ns",), 1e-9), (("min", "Minutes", "分"), 60.0),
        (("h", "hr", "hrs", "Hours", "小时"), 3600.0), (("d", "days", "天"), 86_400.0),
        (("h:min:s.ms", "hh:mm:ss", "Hours in hh:mm:ss.xxx", "dd:hh:mm:ss", "h:m"), 1.0),
    ],
)  # fmt: skip
def test_times(spellings, scale):
    for text in spellings:
        assert parse(text, Dimension.TIME) == Unit(unicodedata.normalize("NFKC", text), scale)


@pytest.mark.parametrize(
    ("spellings", "water_boils_at"),
    [(("C", "°C", "℃", "degC", "Deg. C", "Celsius", "摄氏度"), 100.0),
     (("K", "Kelvin"), 373.15), (("F", "°F", "℉", "degF", "Fahrenheit"), 212.0)],
)  # fmt: skip
def test_temperatures(spellings, water_boils_at):
    for text in spellings:
        unit = parse(text, Dimension.TEMPERATURE)
        assert water_boils_at * unit.scale + unit.offset == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("text", "scale"),
    [("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("UTC", 1.0), ("utc+08:00", 1.0),
     ("yyyy-mm-dd hh:mm:ss", 1.0), ("MM/DD/YYYY", 1.0), ("h:min:s", 1.0), ("days", 1.0),
     ("dd.mm.yyyy hh:mm:ss.fff", 1.0), ("DateTime", 1.0), ("Local", 1.0)],
)  # fmt: skip
def test_of_points_in_time(text, scale):
    assert parse(text, Dimension.INSTANT).scale == scale


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("furlong", Dimension.CURRENT), ("mA/cm2", Dimension.CURRENT), ("mAh/g", Dimension.CHARGE),
        ("Ah", Dimension.CURRENT), ("A", Dimension.CHARGE), ("V", Dimension.CURRENT),
        ("%", Dimension.CHARGE), ("", Dimension.VOLTAGE), ("m", Dimension.VOLTAGE),
        ("MV", Dimension.TIME), ("fortnight", Dimension.TIME), ("R", Dimension.TEMPERATURE),
        ("h", Dimension.INSTANT), ("min", Dimension.INSTANT), ("mA", Dimension.INSTANT), ("pressure", Dimension.INSTANT),
        ("Wh", Dimension.CHARGE), ("kgm", Dimension.RESISTANCE),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_none(text, dimension):
    assert parse(text, dimension) is None


def test_what_has_no_dimension_takes_any():
    assert parse(" #3 ", Dimension.NONE) == Unit("#3", 1.0)


def test_clock_notation_is_told_from_units():
    assert is_clock_notation(" h:min:s.ms ") and is_clock_notation("hh:mm:ss")
    assert not is_clock_notation("h") and not is_clock_notation("min")


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(units).failed == 0
