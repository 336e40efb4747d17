"""Reads Neware's data files (.nda, .ndax) with fastnda, which the extra `cyclers` brings."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.connect import silent
from pipeline.scratch import in_tmpdir, temporary
from pipeline.sources.formats import binary, packed
from pipeline.sources.formats.content import Content, Outputs, Settings
from pipeline.sources.formats.meter import Refused
from transforms import naming
from transforms.budget import MIB
from transforms.interpret.interpretation import Head

if TYPE_CHECKING:
    import polars as pl

MAGIC = b"NEWARE"

# fastnda's names, and those that Neware's program writes for them into exports, with the unit in
# which fastnda gives the values. `step_index` is the step's number in the schedule; where a file
# has none, steps are numbered as they follow.
_NAMES = {
    "index": "DataPoint",
    "cycle_count": "Cycle Index",
    "step_index": "Step Index",
    "step_type": "Step Type",
    "step_time_s": "Step Time(s)",
    "total_time_s": "Total Time(s)",
    "unix_time_s": "Date",
    "current_mA": "Current(mA)",
    "voltage_V": "Voltage(V)",
}
# Counters that restart in every step.
_COUNTERS = {
    "charge_capacity_mAh": "Chg. Cap.(mAh)",
    "discharge_capacity_mAh": "DChg. Cap.(mAh)",
    "charge_energy_mWh": "Chg. Energy(mWh)",
    "discharge_energy_mWh": "DChg. Energy(mWh)",
}
_AUXILIARY = {
    "_temperature_degC": "Aux_Temperature_{}(C)",
    "_voltage_V": "Aux_Voltage_{}(V)",
}

# Where the file's head says that its readings begin and how many bytes they are: place and width.
_LENGTH_AT, _LENGTH_AT_BTS9, _BTS9 = (64, 4), (82, 8), 129

# Zones differ by half hours (a few by quarters); a test's first reading follows its start soon.
_ZONES_S, _SOON_S, _FARTHEST_S = 1800, 120, 14 * 3600

# Readings packed with deflate shrink to a few percent, empty space in them further.
_UNPACKED_LEAST, _UNPACKED_TIMES = 256 * MIB, 250

_INSTALL = 'pip install "battery-streaming-pipeline[cyclers]"'


def read_nda(content: Content, settings: Settings) -> Outputs:
    """The rows of a .nda file as one batch."""
    yield from binary.read(content, settings, tables_nda, "Neware .nda")


def read_ndax(content: Content, settings: Settings) -> Outputs:
    """The rows of a .ndax file as one batch."""
    yield from binary.read(content, settings, tables_ndax, "Neware .ndax")


def tables_nda(data: bytes) -> binary.Tables:
    """The test of a .nda file.

    Raises:
        Refused: fastnda is missing, or the file is cut off, or of a version it does not know.
    """
    if not data.startswith(MAGIC):
        raise Refused("corrupt_file", "named .nda but not a Neware file; copy it again")
    _check_length(data)
    return [_table(data, ".nda")]


def tables_ndax(data: bytes) -> binary.Tables:
    """The test of a .ndax file.

    Raises:
        Refused: fastnda is missing, or the file is broken, or of a version it does not know.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if not packed.is_ndax(archive):
                raise Refused(
                    "corrupt_file",
                    f"the .ndax file has no {packed.NDAX_DATA}; copy it again, or export it as xlsx",
                )
    except zipfile.BadZipFile as error:
        raise Refused(
            "truncated_file", f"the .ndax file cannot be opened ({error}); copy it again"
        ) from None
    if any(info.flag_bits & 0x1 for info in infos):
        raise Refused("encrypted_file", "the .ndax file has a password; save it without one")
    size = sum(info.file_size for info in infos)
    if size > max(_UNPACKED_LEAST, _UNPACKED_TIMES * len(data)):
        raise Refused(
            "corrupt_file", f"the .ndax file would unpack to {size} bytes; export it as xlsx"
        )
    return [_table(data, ".ndax")]


def _check_length(data: bytes) -> None:
    """Refuses a .nda file that ends before its readings do; fastnda would read what is there."""
    (at, width) = _LENGTH_AT_BTS9 if len(data) > 14 and data[14] >= _BTS9 else _LENGTH_AT
    begin = int.from_bytes(data[at : at + width], "little")
    length = int.from_bytes(data[at + width : at + 2 * width], "little")
    if len(data) < at + 2 * width or (begin and begin + length > len(data)):
        raise _cut_off(f"it has {len(data)} bytes of {begin + length}")


def _cut_off(why: str) -> Refused:
    return Refused("truncated_file", f"the .nda file is cut off: {why}; copy it again")


def _table(data: bytes, suffix: str) -> tuple[Head, pa.Table]:
    fastnda = _library()
    with (
        _on_disk(data, suffix) as path,
        warnings.catch_warnings(record=True) as caught,
        silent("fastnda"),
    ):
        warnings.simplefilter("always")
        frame, counters = _frames(fastnda, path, suffix)
        said = _metadata(fastnda, path)
    notes = sorted({str(warning.message) for warning in caught if _is_about_format(warning)})
    if any("records may be missing" in note for note in notes):
        raise _cut_off(notes[0])
    start = _start(said)
    if b"data_AUX_" in data and not any(name.startswith("aux") for name in frame.columns):
        notes.append("its auxiliary channels are not those that it lists, and were left out")
    if notes:
        said["reader"] = " ".join(notes)
    equipment = said.get("barcode", "")
    head = Head(
        tuple(sorted(said.items())),
        "Neware",
        start.isoformat(" ") if start else None,
        # A number alone may be a placeholder that all cells of a laboratory share.
        equipment if equipment and not naming.is_generic(equipment) else None,
    )
    return head, _to_table(frame, counters, start)


@contextlib.contextmanager
def _on_disk(data: bytes, suffix: str) -> Iterator[Path]:
    """A file with these bytes: fastnda reads nothing else."""
    what = f"a copy of a {suffix} file"
    with temporary(what, suffix) as file:
        with in_tmpdir(what):
            file.write(data)
            file.flush()
        yield Path(file.name)


def _library() -> Any:
    """The module fastnda.

    Importing its part for .ndax puts another library's functions in the place of zlib's, for the
    whole process; their errors are of other types, so they are put back.
    """
    kept = zlib.decompress, zlib.decompressobj
    try:
        import fastnda
        import fastnda.nda
        import fastnda.ndax
    except ImportError as error:
        raise Refused(
            "missing_extra",
            f"Neware's .nda and .ndax files need the package fastnda ({error}); install it with: "
            f"{_INSTALL}; or export the test as xlsx or csv",
        ) from None
    finally:
        zlib.decompress, zlib.decompressobj = kept
    return fastnda


def _is_about_format(warning: warnings.WarningMessage) -> bool:
    from fastnda.utils import UnverifiedFormatWarning

    return issubclass(warning.category, UnverifiedFormatWarning)


def _frames(fastnda: Any, path: Path, suffix: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The readings, and the same with counters apart for each direction where the file has them.

    The cycles are those of the file; where it has none, they are counted as Neware's program does.
    """
    counters = fastnda.nda.read_nda(path) if suffix == ".nda" else fastnda.ndax.read_ndax(path)
    frame = fastnda.read(path, cycle_mode="raw" if "cycle_count" in counters.columns else "auto")
    if len(counters) != len(frame) or not (counters["index"] == frame["index"]).all():
        raise ValueError("two readings of the file differ")
    return frame, counters


def _to_table(frame: pl.DataFrame, counters: pl.DataFrame, start: dt.datetime | None) -> pa.Table:
    import polars as pl

    columns: dict[str, pa.Array] = {}
    for own, name in _NAMES.items():
        if own not in frame.columns:
            continue
        series = frame[own]
        if own == "step_type":
            words = series.cast(pl.String).str.replace_all("_", " ")
            columns[name] = words.to_arrow().cast(pa.string())
        elif own == "unix_time_s":
            columns[name] = _to_times(series.to_arrow(), start)
        else:
            columns[name] = series.to_arrow()
    if set(_COUNTERS) <= set(counters.columns):
        for own, name in _COUNTERS.items():
            columns[name] = counters[own].to_arrow()
    else:
        # One counter a step, its sign the direction's.
        for own, unit in (("capacity_mAh", "Cap.(mAh)"), ("energy_mWh", "Energy(mWh)")):
            if own in frame.columns:
                columns[f"Chg. {unit}"] = frame[own].clip(lower_bound=0).to_arrow()
                columns[f"DChg. {unit}"] = (-frame[own]).clip(lower_bound=0).to_arrow()
    if "step_index" not in frame.columns and "step_count" in frame.columns:
        columns["Step Index"] = frame["step_count"].to_arrow()
    numbers = dict.fromkeys(_AUXILIARY, 0)
    for own in frame.columns:
        if not own.startswith("aux"):
            continue
        ending = next((ending for ending in _AUXILIARY if own.endswith(ending)), None)
        if ending is None:
            columns[own] = frame[own].to_arrow()
        else:
            numbers[ending] += 1
            columns[_AUXILIARY[ending].format(numbers[ending])] = frame[own].to_arrow()
    return pa.table(columns)


def _to_times(seconds: pa.Array, start: dt.datetime | None) -> pa.Array:
    """Unix seconds as times; with a zone where the file's start, in local time, shows that they are.

    Older files count them in the cycler's local time; there the first one is at the start. Where
    it is not, but whole half hours from it, they are UTC.
    """
    microseconds = pc.cast(pc.round(pc.multiply(seconds, 1e6)), pa.int64())
    zone = None
    if start is not None and len(seconds) and seconds[0].is_valid:
        local = start.replace(tzinfo=dt.UTC).timestamp()
        ahead = seconds[0].as_py() - local
        zones = round(ahead / _ZONES_S)
        apart = abs(ahead - zones * _ZONES_S)
        if zones and apart <= _SOON_S and abs(ahead) <= _FARTHEST_S + _SOON_S:
            zone = "UTC"
    return microseconds.cast(pa.timestamp("us", zone))


def _metadata(fastnda: Any, path: Path) -> dict[str, str]:
    """What the file says of its test; nothing where that cannot be read, for the readings could."""
    try:
        raw: Mapping[str, Any] = fastnda.read_metadata(path)
    except Exception:  # noqa: BLE001  # parsers of XML and of a C struct: any
        return {}
    test = raw.get("TestInfo")
    if isinstance(test, Mapping):  # .ndax: one entry a member
        test = test.get("TestInfo", test)
        step = raw.get("Step")
        remark = step.get("Head_Info", {}) if isinstance(step, Mapping) else {}
        found = {
            "barcode": _word(test, "Barcode"),
            "start_time": _word(test, "StartTime"),
            "sn": _word(test, "SN"),
            "step_name": _word(test, "StepName"),
            "device": "-".join(
                filter(None, (_word(test, n) for n in ("DevID", "UnitID", "ChlID")))
            ),
            "test": _word(test, "TestID"),
            "remarks": _word(
                remark.get("Remark") if isinstance(remark, Mapping) else None, "Value"
            ),
        }
    else:
        found = {
            name: _word(raw, name)
            for name in (
                "barcode", "start_time", "sn", "step_name", "test_name", "remarks", "nda_version",
                "server_version", "active_mass_mg",
            )
        }  # fmt: skip
    return {name: word for name, word in found.items() if word}


def _word(values: object, name: str) -> str:
    value = values.get(name) if isinstance(values, Mapping) else None
    return "" if value is None or isinstance(value, Mapping | list) else str(value).strip()


def _start(said: Mapping[str, str]) -> dt.datetime | None:
    text = said.get("start_time", "").replace(".", "-")
    try:
        return dt.datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
