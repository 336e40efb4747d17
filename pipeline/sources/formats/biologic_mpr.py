"""Reads BioLogic's data files (.mpr) of EC-Lab and BT-Lab.

BioLogic does not publish the format. What users found out of it (numbers, names and widths of
columns, places in the log) stands in public issues (echemdata/galvani 42, 59, 80, 85, 112, 120) and
in the table of galvani, a reader under the GPL; of that only these facts are used, no code:

- 52 bytes of magic, then modules: `MODULE`, a short name of 10 bytes, a long one of 25, length and
  version (4 bytes each), a date of 8. From EC-Lab 11.50 on FF FF FF FF stands before the length, and
  four more bytes follow it.
- `VMP data`: number of rows (4 bytes), number of columns, the columns' numbers, rows one after
  another. A column's number says its name and type. Six numbers are bits of one byte, which lies
  where the first of them would.
- `VMP LOG`: when the measurement began, in days since 1899-12-30, in the computer's local time.

A number that is not known has no known width, so the file is refused. The rows have to fill the
module to the byte, which no wrong width would.
"""

from __future__ import annotations

import datetime as dt
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.sources.formats import binary, headers
from pipeline.sources.formats.content import Content, Outputs, Settings
from pipeline.sources.formats.meter import Refused
from transforms.interpret.interpretation import Head

MAGIC = b"BIO-LOGIC MODULAR FILE"
_MAGIC_BYTES = 52
_HEADER = struct.Struct("<6s10s25sII8s")
_HEADER_11_50 = struct.Struct("<6s10s25sIIII8s")
_NEW = 0xFFFFFFFF

# Version of the data module: bytes of the number of columns, bytes of each number, start of rows.
_LAYOUTS = {0: (1, 1, 100), 2: (1, 2, 405), 3: (2, 2, 406), 11: (2, 2, 1007)}

_BITS = {
    1: ("mode", 0, 0x03),
    2: ("ox/red", 2, 0x01),
    3: ("error", 3, 0x01),
    21: ("control changes", 4, 0x01),
    31: ("Ns changes", 5, 0x01),
    65: ("counter inc.", 7, 0x01),
}


def _harmonics(first: int, name: str, unit: str) -> dict[int, str]:
    return {first + n: f"|{name} h{n + 2}|/{unit}" for n in range(6)}


_DOUBLES = {
    4: "time/s",
    7: "dq/mA.h",
    11: "<I>/mA",
    13: "(Q-Qo)/mA.h",
    23: "dQ/mA.h",
    24: "cycle number",
    74: "|Energy|/W.h",
    123: "Energy charge/W.h",
    124: "Energy discharge/W.h",
    125: "Capacitance charge/µF",
    126: "Capacitance discharge/µF",
    182: "step time/s",
    211: "Q charge/discharge/mA.h",
    438: "step time/s",
    467: "Q charge/discharge/mA.h",
}
_SINGLES = {
    5: "control/V/mA",
    6: "Ewe/V",
    8: "I/mA",
    9: "Ece/V",
    16: "Analog IN 1/V",
    17: "Analog IN 2/V",
    18: "Analog IN 3/V",
    19: "control/V",
    20: "control/mA",
    26: "Rapp/Ohm",
    27: "Ewe-Ece/V",
    32: "freq/Hz",
    33: "|Ewe|/V",
    34: "|I|/A",
    35: "Phase(Z)/deg",
    36: "|Z|/Ohm",
    37: "Re(Z)/Ohm",
    38: "-Im(Z)/Ohm",
    69: "R/Ohm",
    70: "P/W",
    75: "Analog OUT/V",
    76: "<I>/mA",
    77: "<Ewe>/V",
    78: "Cs-2/µF-2",
    96: "|Ece|/V",
    98: "Phase(Zce)/deg",
    99: "|Zce|/Ohm",
    100: "Re(Zce)/Ohm",
    101: "-Im(Zce)/Ohm",
    163: "|Estack|/V",
    168: "Rcmp/Ohm",
    169: "Cs/µF",
    172: "Cp/µF",
    173: "Cp-2/µF-2",
    174: "<Ewe>/V",
    178: "(Q-Qo)/C",
    179: "dQ/C",
    217: "THD Ewe/%",
    218: "THD I/%",
    220: "NSD Ewe/%",
    221: "NSD I/%",
    223: "NSR Ewe/%",
    224: "NSR I/%",
    422: "Phase(Zstack)/deg",
    423: "|Zstack|/Ohm",
    424: "Re(Zstack)/Ohm",
    425: "-Im(Zstack)/Ohm",
    426: "<Estack>/V",
    430: "Phase(Zwe-ce)/deg",
    431: "|Zwe-ce|/Ohm",
    432: "Re(Zwe-ce)/Ohm",
    433: "-Im(Zwe-ce)/Ohm",
    434: "(Q-Qo)/C",
    435: "dQ/C",
    462: "Temperature/°C",
    471: "<Ece>/V",
    473: "THD Ewe/%",
    474: "THD I/%",
    475: "THD Ece/%",
    476: "NSD Ewe/%",
    477: "NSD I/%",
    478: "NSD Ece/%",
    479: "NSR Ewe/%",
    480: "NSR I/%",
    481: "NSR Ece/%",
    505: "Rdc/Ohm",
    **_harmonics(230, "Ewe", "V"),
    **_harmonics(236, "I", "A"),
    **_harmonics(486, "Ewe", "V"),
    **_harmonics(492, "I", "A"),
}
_WORDS = {39: "I Range", 131: "Ns"}
_COUNTS = {212: "half cycle", 213: "z cycle", 468: "half cycle", 469: "z cycle"}
_BYTES = {509: "Acir/Dcir Control"}

# Two programs number these differently; the rows' width says which of the two wrote the file.
_EITHER: tuple[dict[int, tuple[str, str]], ...] = (
    {
        498: ("Q charge/mA.h", "<f8"),
        499: ("Q discharge/mA.h", "<f8"),
        500: ("step time/s", "<f8"),
        501: ("Efficiency/%", "<f8"),
        502: ("Capacity/mA.h", "<f8"),
    },
    {n: (name, "<f4") for n, name in _harmonics(498, "Ece", "V").items()},
)
_TYPES: dict[int, tuple[str, str]] = {
    number: (name, kind)
    for names, kind in (
        (_DOUBLES, "<f8"), (_SINGLES, "<f4"), (_WORDS, "<u2"), (_COUNTS, "<u4"), (_BYTES, "u1"),
    )
    for number, name in names.items()
}  # fmt: skip

# Where the time of the start lies in the log, by program version.
_STARTS = (465, 469, 473, 585)
_EPOCH = dt.datetime(1899, 12, 30)  # noqa: DTZ001  # the file knows no zone
_YEARS = (1995, 2100)
_PROGRAM = re.compile(rb"[\x04-\x06](\d{2}\.\d{2})\x00")


@dataclass(frozen=True)
class _Module:
    name: str
    version: int
    date: dt.date | None
    data: bytes


def read(content: Content, settings: Settings) -> Outputs:
    """The rows of a data file as one batch."""
    yield from binary.read(content, settings, tables, "BioLogic .mpr")


def tables(data: bytes) -> binary.Tables:
    """The rows of a data file, under the names that EC-Lab gives the columns in its text exports.

    Raises:
        Refused: not such a file, cut off, or with a version or column that is not known.
    """
    modules = _modules(data)
    rows = next((module for module in modules if module.name == "VMP data"), None)
    if rows is None:
        raise Refused(
            "truncated_file",
            "the file has no data module; it may be cut off or only hold settings: copy it again",
        )
    log = next((module for module in modules if module.name == "VMP LOG"), None)
    start = _start(log) if log else None
    values = [("modules", ", ".join(module.name for module in modules))]
    if log and (program := _PROGRAM.search(log.data)):
        values.append(("ec-lab", program[1].decode()))
    head = Head(tuple(sorted(values)), "BioLogic", start.isoformat(" ") if start else None)
    return [(head, _with_current(_rows(rows)))]


def _modules(data: bytes) -> list[_Module]:
    if not data.startswith(MAGIC):
        raise Refused("corrupt_file", "named .mpr but not a BioLogic data file; copy it again")
    found, at = [], _MAGIC_BYTES
    while at < len(data):
        if len(data) - at < _HEADER_11_50.size:
            raise _cut_off()
        magic, short, _, length, version, date = _HEADER.unpack_from(data, at)
        size = _HEADER.size
        if length == _NEW:
            magic, short, _, _, length, _, version, date = _HEADER_11_50.unpack_from(data, at)
            size = _HEADER_11_50.size
        if magic != b"MODULE":
            raise Refused(
                "corrupt_file",
                f"no module of the BioLogic file begins at byte {at}, where one should; copy it "
                "again",
            )
        at += size
        if length > len(data) - at:
            raise _cut_off()
        name = short.decode("latin-1").strip()
        found.append(_Module(name, version, _date(date), data[at : at + length]))
        at += length
    return found


def _cut_off() -> Refused:
    return Refused(
        "truncated_file",
        "the BioLogic file ends within a module; stop the measurement and copy it again",
    )


def _date(text: bytes) -> dt.date | None:
    numbers = re.fullmatch(rb"(\d\d)[/.-](\d\d)[/.-](\d\d)", text)
    if numbers is None:
        return None
    month, day, year = (int(number) for number in numbers.groups())
    try:
        return dt.date(2000 + year if year < 90 else 1900 + year, month, day)
    except ValueError:
        return None


def _start(log: _Module) -> dt.datetime | None:
    """When the measurement began; of several places the one that is nearest to the log's date."""
    found = []
    for at in _STARTS:
        if at + 8 > len(log.data):
            continue
        (days,) = struct.unpack_from("<d", log.data, at)
        if not 0 < days < 100_000:
            continue
        moment = _EPOCH + dt.timedelta(milliseconds=round(days * 86_400_000))
        if _YEARS[0] <= moment.year < _YEARS[1]:
            apart = abs((moment.date() - log.date).days) if log.date else 0
            found.append((apart, moment))
    return min(found)[1] if found else None


def _rows(module: _Module) -> pa.Table:
    data = module.data
    if module.version not in _LAYOUTS:
        raise Refused(
            "unsupported_variant",
            f"version {module.version} of BioLogic's data module is not known; export the file as "
            "text (.mpt) with EC-Lab",
        )
    count_bytes, id_bytes, begin = _LAYOUTS[module.version]
    if len(data) < begin:
        raise _cut_off()
    count = int.from_bytes(data[:4], "little")
    columns = int.from_bytes(data[4 : 4 + count_bytes], "little")
    ids_end = 4 + count_bytes + columns * id_bytes
    if ids_end > begin:
        raise Refused(
            "corrupt_file",
            f"the file claims {columns} columns, which is not possible; copy it again",
        )
    ids = np.frombuffer(data[4 + count_bytes : ids_end], f"<u{id_bytes}").tolist()
    kind = _row_type(ids, len(data) - begin, count)
    return _to_table(np.frombuffer(data, kind, count, begin), ids)


def _row_type(ids: Sequence[int], size: int, count: int) -> np.dtype[np.void]:
    """The layout of a row, of which `count` fill `size` bytes."""
    widths = []
    for either in _EITHER:
        types = {**_TYPES, **either}
        fields: list[tuple[str, str]] = []
        for place, number in enumerate(ids):
            if number in _BITS:
                if not any(name == "flags" for name, _ in fields):
                    fields.append(("flags", "u1"))
            elif number in types:
                fields.append((f"{place}", types[number][1]))
            else:
                raise Refused(
                    "unsupported_variant",
                    f"column number {number} of the BioLogic file is not known, and without its "
                    "width no row can be read; export the file as text (.mpt) with EC-Lab",
                )
        kind = np.dtype(fields)
        if kind.itemsize * count == size:
            return kind
        widths.append(kind.itemsize)
    raise Refused(
        "corrupt_file",
        f"{count} rows of {widths[0]} bytes do not fill the {size} bytes that the BioLogic file "
        "has for them; copy it again, or export it as text (.mpt) with EC-Lab",
    )


def _to_table(rows: npt.NDArray[np.void], ids: Sequence[int]) -> pa.Table:
    kind = rows.dtype
    names, columns = [], []
    for place, number in enumerate(ids):
        if number in _BITS:
            name, shift, mask = _BITS[number]
            values = rows["flags"] >> np.uint8(shift) & np.uint8(mask)
        else:
            values = np.ascontiguousarray(rows[f"{place}"])
            either = next((e[number] for e in _EITHER if number in e
                           and kind[f"{place}"] == np.dtype(e[number][1])), None)  # fmt: skip
            name = (either or _TYPES[number])[0]
        names.append(name)
        columns.append(pa.array(values))
    return pa.table(columns, names=headers.unique_names(names))


def _with_current(table: pa.Table) -> pa.Table:
    """The table with `<I>/mA`, which EC-Lab works out for text exports where none is recorded.

    It is the charge since the row before over the time since then (EC-Lab's manual: calculated
    from I = dQ/dt). The first row has no row before it; nor has one at the same time.
    """
    names = table.column_names
    charge = next((name for name in ("dq/mA.h", "dQ/mA.h") if name in names), None)
    if {"I/mA", "<I>/mA", "|I|/A"} & set(names) or charge is None or "time/s" not in names:
        return table
    amount = table[charge].to_numpy()
    passed = np.diff(table["time/s"].to_numpy(), prepend=np.nan)
    with np.errstate(all="ignore"):
        current = np.where(amount == 0, 0.0, amount * 3600 / passed)
    known = (amount == 0) | (passed > 0)
    return table.append_column("<I>/mA", pa.array(current, mask=~known))
