"""Finds in a cycler's word for a step whether it charges, discharges or rests."""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

I8 = npt.NDArray[np.int8]

# Unknown: a word that names no direction, such as a drive cycle or a message.
UNKNOWN = 2

_REST = re.compile(
    r"(?:rest|pause|pau|idle|open|ocv|ocp|oc|wait|standby|relax\w*|silent|static|搁置|静置|休眠|暂停)"
)
_DISCHARGE = re.compile(r"(?:dis[ _-]?charg\w*|disch\w*|dchg?\w*|dchrg|dis|entlad\w*|放电|放)")
_CHARGE = re.compile(r"(?:charg\w*|chrg|chg\w*|cha|ch|laden|ladung|充电|充)")
_LETTERS = {"c": 1, "d": -1, "r": 0, "p": 0, "o": 0, "s": 0, "0": UNKNOWN}


@lru_cache(maxsize=4096)
def direction(word: str) -> int:
    """1 for a charge, -1 for a discharge, 0 for a rest, UNKNOWN for anything else.

    >>> direction("CC DChg"), direction("CHA"), direction("R"), direction("UDDS")
    (-1, 1, 0, 2)
    """
    plain = word.strip().casefold()
    if plain in _LETTERS:
        return _LETTERS[plain]
    for part in re.split(r"[\s_,;:/|().-]+", re.sub(r"\bdis[ _-]charg", "discharg", plain)):
        # Discharge first: it holds the word for charge.
        for pattern, found in ((_DISCHARGE, -1), (_CHARGE, 1), (_REST, 0)):
            if pattern.fullmatch(part) or (not part.isascii() and pattern.search(part)):
                return found
    compact = re.fullmatch(r"(?:cc|cv|cccv|cp|cr|cc_cv)(dchg|dis|d|chg|cha|c)\w*", plain)
    if compact:
        return -1 if compact[1].startswith("d") else 1
    return UNKNOWN


def directions(texts: pa.Array) -> I8:
    """The direction of every row of a column of words; UNKNOWN for a null."""
    encoded = texts.dictionary_encode()
    found = [
        UNKNOWN if word is None else direction(word) for word in encoded.dictionary.to_pylist()
    ]
    codes = encoded.indices.fill_null(len(found)).to_numpy(zero_copy_only=False)
    known: I8 = np.array([*found, UNKNOWN], dtype=np.int8)[codes]
    return known
