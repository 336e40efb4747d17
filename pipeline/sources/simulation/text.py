"""Write readings as JSON text.

Rows are laid out in a table of fixed-width pieces, whose constant text is written once; numbers
come from tables of ready digits, unused places stay NUL and are deleted at the end. That is several
times faster than a dict per row and an encoder.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.sources.simulation.arrays import Ints
from pipeline.sources.simulation.parts import Chunk, Kind

_SLICE: Final = 1024  # rows formatted at once: their text stays in the processor's cache


def _words(texts: list[str]) -> NDArray[np.uint32]:
    """Texts of up to four characters as words."""
    return np.array(texts, "S4").view(np.uint32)


_PAD4: Final = _words([f"{n:04d}" for n in range(10_000)])
# Right-aligned without leading zeros; index + 10,000 with them, for the lower half of a number.
_LEAD4: Final = np.concatenate(
    (_words(["0"]), _words([str(n).rjust(4, "\0") for n in range(1, 10_000)]), _PAD4)
)
_UPPER4: Final = np.concatenate((_words([""]), _LEAD4[1:10_000]))
_DOT2: Final = _words([f".{n:02d}" for n in range(100)])
_DOT3: Final = _words([f".{n:03d}" for n in range(1000)])
_PAD3: Final = _words([f"{n:03d}" for n in range(1000)])
_MINUTES: Final = np.array([f"{h:02d}:{m:02d}:" for h in range(24) for m in range(60)], "S6")
_SECONDS: Final = np.array([f"{n // 1000:02d}.{n % 1000:03d}Z" for n in range(60_000)], "S7")


class Text:
    """Formats readings of one kind of equipment as JSON."""

    def __init__(self, kind: Kind, names: NDArray[np.bytes_]) -> None:
        """`names` are the equipment ids of a block."""
        self.kind, self._names, self._columns = kind, names, kind.columns
        pieces: list[tuple[str, str | bytes]] = [("", b"{")]

        def quoted(name: str, *parts: tuple[str, str]) -> None:
            pieces.extend([("", f'"{name}":"'.encode()), *parts, ("", b'",')])

        quoted("equipment_id", ("id", names.dtype.str))
        pieces.append(("", f'"equipment_type":"{kind.type}",'.encode()))
        if kind.tests:
            quoted("test_id", ("test_of", names.dtype.str), ("test", "S8"))
        for name in ("recorded_at", "streamed_at"):
            quoted(name, (f"{name}.day", "S11"), (f"{name}.minute", "S6"), (f"{name}.second", "S7"))
        for i, (name, digits) in enumerate(self._columns.items()):
            pieces += [("", f'{"," if i else ""}"{name}":'.encode()), (f"{name}.sign", "S1")]
            pieces += [(f"{name}.upper", "u4"), (f"{name}.lower", "u4")]
            pieces += [("", b".")] if digits == 4 else []
            pieces += [(f"{name}.after", "u4")] if digits else []
            pieces += [(f"{name}.last", "u4")] if digits == 6 else []
        pieces.append(("", b"}\n"))

        kinds = [
            np.dtype(f"S{len(what)}") if isinstance(what, bytes) else np.dtype(what)
            for _, what in pieces
        ]
        places = [name or f"text{i}" for i, (name, _) in enumerate(pieces)]
        self._rows = np.zeros(_SLICE, np.dtype(list(zip(places, kinds, strict=True))))
        self._at = {place: self._rows[place] for place in places}
        for place, (_, what) in zip(places, pieces, strict=True):
            if isinstance(what, bytes):
                self._at[place][:] = what

    def encode(self, chunk: Chunk, streamed_ms: Ints) -> list[bytes]:
        """JSON objects of all readings; `streamed_ms` (n,) in milliseconds since 1970 UTC."""
        n = chunk.equipment.size
        first_day = int(chunk.recorded_ms.min()) // 86_400_000
        last_day = int(streamed_ms.max()) // 86_400_000
        dates = np.arange(first_day, last_day + 1).astype("M8[D]").astype(str)
        days = np.strings.add(dates, "T").astype("S11")
        own = chunk.equipment - chunk.equipment[0]  # a chunk starts with its block's first
        low_test = 0
        tests: NDArray[np.bytes_] | None = None
        if chunk.test is not None:
            low_test = int(chunk.test.min())
            tests = test_names(low_test, int(chunk.test.max()))
        out: list[bytes] = []
        for low in range(0, n, _SLICE):
            part = slice(low, min(n, low + _SLICE))
            size = part.stop - low
            names = self._names[own[part]]
            self._at["id"][:size] = names
            if tests is not None and chunk.test is not None:
                self._at["test_of"][:size] = names
                self._at["test"][:size] = tests[chunk.test[part] - low_test]
            self._time("recorded_at", chunk.recorded_ms[part], days, first_day)
            self._time("streamed_at", streamed_ms[part], days, first_day)
            for name, digits in self._columns.items():
                self._number(name, chunk.columns[name][part], digits)
            lines = self._rows[:size].tobytes().translate(None, b"\0").split(b"\n")
            lines.pop()
            out += lines
        return out

    def _time(self, name: str, ms: Ints, days: NDArray[np.bytes_], first_day: int) -> None:
        minutes = ms // 60_000
        day = minutes // 1440
        size = ms.size
        self._at[f"{name}.day"][:size] = days[day - first_day]
        self._at[f"{name}.minute"][:size] = _MINUTES[minutes - 1440 * day]
        self._at[f"{name}.second"][:size] = _SECONDS[ms - 60_000 * minutes]

    def _number(self, name: str, values: Ints, digits: int) -> None:
        """Writes values / 10**digits; whole parts of up to eight digits."""
        at, size = self._at, values.size
        if name in ("current_a", "temperature_c", "ambient_temperature_c"):
            at[f"{name}.sign"][:size] = np.where(values < 0, b"-", b"")
            values = np.abs(values)
        whole = values
        if digits:
            scale = 10**digits
            whole = values // scale
            rest = values - scale * whole
            if digits == 2:
                at[f"{name}.after"][:size] = _DOT2[rest]
            elif digits == 3:
                at[f"{name}.after"][:size] = _DOT3[rest]
            elif digits == 4:
                at[f"{name}.after"][:size] = _PAD4[rest]
            else:
                upper = rest // 1000
                at[f"{name}.after"][:size] = _DOT3[upper]
                at[f"{name}.last"][:size] = _PAD3[rest - 1000 * upper]
        if whole.max() < 10_000:
            at[f"{name}.upper"][:size] = 0
            at[f"{name}.lower"][:size] = _LEAD4[whole]
        else:
            upper = whole // 10_000
            at[f"{name}.upper"][:size] = _UPPER4[upper]
            at[f"{name}.lower"][:size] = _LEAD4[whole - 10_000 * upper + 10_000 * (upper > 0)]


def test_names(low: int, high: int) -> NDArray[np.bytes_]:
    """What tests low … high add to the equipment id for their own id."""
    return np.array([f"_t{number:02d}" for number in range(low, high + 1)], "S8")
