"""Numbers, times and tables as cyclers' exports spell them."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tests.fuzz.draw import Draw
from tests.fuzz.log import Floats, Log

# Prefixes and how they are spelled: the micro sign, the Greek letter (the only one GBK has), a u.
AMPERES = {"A": 1.0, "mA": 1e3, "µA": 1e6, "μA": 1e6, "uA": 1e6}


@dataclass(frozen=True)
class Style:
    """How numbers are written.

    Attributes:
        comma: a decimal comma.
        thousands: what groups digits by three; quoted where it is the delimiter too.
        delimiter: between cells.
    """

    comma: bool = False
    thousands: str = ""
    delimiter: str = ","

    def number(self, value: float, decimals: int) -> str:
        """A number with so many decimals."""
        if math.isnan(value):
            return "NaN"
        text = f"{value:,.{decimals}f}" if self.thousands else f"{value:.{decimals}f}"
        if text.startswith("-") and not text.strip("-0.,"):
            text = text[1:]
        if self.comma:
            text = text.replace(",", " ").replace(".", ",").replace(" ", self.thousands)
        return f'"{text}"' if self.delimiter in text else text


PLAIN = Style()


def decimals_for(values: Floats) -> int:
    """Decimals that show the largest value to a part in a million."""
    most = float(np.nanmax(np.abs(values), initial=0.0))
    return min(max(6 - math.floor(math.log10(most)), 0), 12) if most > 0 else 3


def numbers(
    values: Iterable[float] | Floats, style: Style = PLAIN, decimals: int | None = None
) -> list[str]:
    """Numbers as text, all with the same decimals: enough ones if not said."""
    array = np.asarray(values, dtype=np.float64)
    digits = decimals_for(array) if decimals is None else decimals
    return [style.number(float(value), digits) for value in array]


def whole(values: Iterable[float]) -> list[str]:
    """Whole numbers as text."""
    return [str(int(value)) for value in values]


def hms(seconds: float, decimals: int = 3, days: bool = False) -> str:
    """hh:mm:ss with decimals (cut, as clocks do), or the form with days that Maccor writes."""
    ticks = math.floor(seconds * 10**decimals + 1e-6)
    rest, part = divmod(ticks, 10**decimals)
    minutes, second = divmod(rest, 60)
    hours, minute = divmod(minutes, 60)
    tail = f".{part:0{decimals}d}" if decimals else ""
    if days:
        day, hour = divmod(hours, 24)
        return f"{day:3d}d {hour:02d}:{minute:02d}:{second:02d}{tail}"
    return f"{hours:02d}:{minute:02d}:{second:02d}{tail}"


@dataclass(frozen=True)
class Stamps:
    """How a wall clock is written.

    Attributes:
        order: `ymd`, `mdy` or `dmy`.
        separator: between year, month and day.
        resolution_s: 60, 1 or 0.001.
        half_days: AM and PM.
        short_year: two digits.
        padded: leading zeros in month, day and hour.
    """

    order: str = "ymd"
    separator: str = "-"
    resolution_s: float = 1.0
    half_days: bool = False
    short_year: bool = False
    padded: bool = True

    def text(self, at: dt.datetime) -> str:
        """A moment as text; what the resolution doesn't show is cut off."""
        two = "02d" if self.padded else "d"
        parts = {
            "y": f"{at.year % 100:02d}" if self.short_year else str(at.year),
            "m": f"{at.month:{two}}",
            "d": f"{at.day:{two}}",
        }
        day = self.separator.join(parts[letter] for letter in self.order)
        hour = (at.hour - 1) % 12 + 1 if self.half_days else at.hour
        time = f"{hour:{two}}:{at.minute:02d}"
        if self.resolution_s < 60:
            time += f":{at.second:02d}"
        if self.resolution_s < 1:
            time += f".{at.microsecond // 1000:03d}"
        if self.half_days:
            time += " AM" if at.hour < 12 else " PM"
        return f"{day} {time}"


def moments(log: Log) -> list[dt.datetime]:
    """The wall clock of every row, to the millisecond, off by what it is off."""
    return [
        log.start + dt.timedelta(milliseconds=round(1000.0 * s))
        for s in log.at_s + log.wall_shift_s
    ]


def cut(seconds: Floats, resolution_s: float) -> Floats:
    """Seconds as a clock of that resolution shows them."""
    if not resolution_s:
        return seconds
    found: Floats = np.floor(seconds / resolution_s + 1e-6) * resolution_s
    return found


def wall_seconds(log: Log, resolution_s: float) -> Floats:
    """Seconds between the rows' stamps and the first one's, as written."""
    first = log.start.timestamp()
    return cut(first + log.at_s + log.wall_shift_s, resolution_s) - first


@dataclass
class Table:
    """Columns of text on the way to a file.

    Attributes:
        columns: (name, cells) in order.
        delimiter: between cells.
        blanks: names of columns of which a cell may be missing.
        units: a row of units below the names, or none.
    """

    delimiter: str = ","
    columns: list[tuple[str, list[str]]] = field(default_factory=list)
    blanks: list[str] = field(default_factory=list)
    units: list[str] | None = None

    def add(self, name: str, cells: Sequence[str], blank: bool = False) -> None:
        """A further column."""
        self.columns.append((name, list(cells)))
        if blank:
            self.blanks.append(name)

    @property
    def header(self) -> str:
        """The line of names."""
        return self.delimiter.join(name for name, _ in self.columns)

    def lines(self) -> list[str]:
        """The rows."""
        return [
            self.delimiter.join(row)
            for row in zip(*(cells for _, cells in self.columns), strict=True)
        ]


@dataclass
class Damage:
    """What was done to a file's text, as far as the truth hangs on it.

    Attributes:
        lost_last: the last row is cut off in the middle.
        blanked: rows without a value that a reading needs.
        repeated: rows that stand twice.
        headers: lines of names, and of units, between the rows.
    """

    lost_last: bool = False
    blanked: list[int] = field(default_factory=list)
    repeated: int = 0
    headers: int = 0


@dataclass(frozen=True)
class Written:
    """A file: its bytes, its damage, how many different rows it has."""

    content: bytes
    damage: Damage
    different: int


DAMAGES = ("repeated_rows", "repeated_header", "cut_line", "blank_cells", "trailing_delimiter")
FORMS = ("bom", "crlf", "utf16")


def written(
    draw: Draw,
    table: Table,
    head: Sequence[str] = (),
    damages: Sequence[str] = DAMAGES,
    forms: Sequence[str] = FORMS,
    encoding: str = "utf-8",
) -> Written:
    """A table as the bytes of a file, often with one or two things wrong with it."""
    damage = Damage()
    chosen = [name for name in damages if draw.chance(name, 0.5 / max(len(damages), 1))]
    rows = len(table.columns[0][1])
    if "blank_cells" in chosen and table.blanks:
        name = draw.choose("blank_column", table.blanks)
        cells = next(cells for column, cells in table.columns if column == name)
        for at in sorted({draw.whole(rows // 4, 3 * rows // 4) for _ in range(3)}):
            cells[at] = ""
            damage.blanked.append(at)
    lines = table.lines()
    different = len(set(lines))
    header = [table.header, *([table.delimiter.join(table.units)] if table.units else [])]
    if "trailing_delimiter" in chosen:
        header = [line + table.delimiter for line in header]
        lines = [line + table.delimiter for line in lines]
    if "repeated_rows" in chosen:
        at, length = draw.whole(rows // 3, rows // 2), draw.whole(3, 20)
        lines[at + length : at + length] = lines[at : at + length]
        damage.repeated = len(lines) - rows
    if "repeated_header" in chosen:
        at = draw.whole(rows // 3, 2 * rows // 3)
        lines[at:at] = header
        damage.headers = len(header)
    if "cut_line" in chosen:
        parts = lines[-1].split(table.delimiter)
        lines[-1] = table.delimiter.join(parts[: max(len(parts) // 2, 1)])
        damage.lost_last = True
    form = draw.choose("form", ("plain", "plain", *forms))
    end = "\r\n" if form == "crlf" else "\n"
    text = end.join([*head, *header, *lines]) + ("" if damage.lost_last else end)
    if form == "utf16":
        encoding = "utf-16"
    elif form == "bom":
        encoding = "utf-8-sig"
    return Written(text.encode(encoding), damage, different)
