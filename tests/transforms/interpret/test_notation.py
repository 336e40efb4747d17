"""How numbers are written is decided once for a file, never for a value."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.convert import Notation
from transforms.interpret.notation import decide


def columns(*texts):
    return [pa.array(list(column), pa.string()) for column in texts]


@pytest.mark.parametrize(
    ("given_columns", "found"),
    [
        # no comma, nothing to decide
        ([["1.5", "2", None]], (None, False)),
        ([[None, None]], (None, False)),
        ([], (None, False)),
        # a comma that groups no thousands is a decimal one
        ([["3,7", "3,71"]], (Notation.COMMA, False)),
        ([["0,512", "0,001"]], (Notation.COMMA, False)),
        ([["-1,5e-3", "2"]], (Notation.COMMA, False)),
        ([[",5"]], (Notation.COMMA, False)),
        ([["1.234,5"]], (Notation.COMMA, False)),
        # both signs, or two commas, group thousands
        ([["1,234.5"]], (Notation.POINT, False)),
        ([["1,234,567"]], (Notation.POINT, False)),
        # 1,500 alone may be either: other columns tell
        ([["1,500", "2,000"], ["3.7", "3.8"]], (Notation.POINT, False)),
        ([["1,500", "2,000"], ["3,75", "3,8"]], (Notation.COMMA, False)),
        ([["998", "999", "1,000"]], (Notation.POINT, False)),
        ([["1,500", "2,000"]], (Notation.COMMA, True)),
        ([["1,500", "n/a", None]], (Notation.COMMA, True)),
        # words with commas are no numbers
        ([["on, off", "1"]], (None, False)),
    ],
)  # fmt: skip
def test_what_decides(given_columns, found):
    assert decide(columns(*given_columns)) == found


numbers = st.lists(st.floats(-1e6, 1e6).map(lambda x: round(x, 4)), min_size=1, max_size=30)


@given(values=numbers, grouped=st.booleans())
def test_a_column_of_either_kind_is_never_taken_for_the_other(values, grouped):
    """At least one value says which it is, or it is called a guess."""
    point = [f"{v:,.4f}" if grouped else f"{v:.4f}" for v in values]
    comma = [text.translate(str.maketrans(",.", ".,")) for text in point]
    assert decide(columns(point))[0] in (None, Notation.POINT)
    assert decide(columns(comma)) == (Notation.COMMA, False)


@given(values=st.lists(st.integers(0, 10**7), min_size=1, max_size=30))
def test_whole_numbers_in_thousands_are_a_guess_at_worst(values):
    found, guessed = decide(columns([f"{value:,}" for value in values]))
    if any(value >= 1000 for value in values):
        assert found is Notation.POINT or guessed
    else:
        assert found is None
