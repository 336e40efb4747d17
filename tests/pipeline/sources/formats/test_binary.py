"""Tests the reading of binary cycler files: Neware .nda and .ndax, BioLogic .mpr, Arbin .res."""

from __future__ import annotations

import datetime as dt
import io
import random
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sources.formats import arbin_res, biologic_mpr, neware_nda, reader
from pipeline.sources.formats.content import Content, Settings
from pipeline.sources.formats.jet import PAGE, Database
from pipeline.sources.formats.meter import Refused
from schemas.aliases import resolve
from tests.cyclers import mpr, sample
from tests.pipeline.sources.reading import read_file
from tests.services.access import Access, encoded
from tests.services.fixtures import available
from transforms.batch import RawBatch
from transforms.dead_letter import DeadLetter

DAY_S = 86_400
# A day that no rounding of days moves.
START = dt.datetime(2024, 3, 14, 9, 30)  # noqa: DTZ001  # cyclers write local times
START_DAYS = (START - dt.datetime(1899, 12, 30)).total_seconds() / DAY_S  # noqa: DTZ001


def fields_of(table: pa.Table) -> dict[str, str]:
    """The reading's field that each column stands for, by the column's name."""
    aliases = {name: resolve(name) for name in table.column_names}
    return {name: alias.field for name, alias in aliases.items() if alias is not None}


def outputs_of(name: str, data: bytes) -> list[Any]:
    """What the reader gives for a file; an exception out of it fails the test."""
    content = Content(
        path=name,
        source_file=name,
        equipment_id="cell",
        arrived_at_us=0,
        size=len(data),
        open=partial(io.BytesIO, data),
    )
    found = list(reader.read(content, Settings("test")))
    assert all(isinstance(output, RawBatch | DeadLetter) for output in found)
    return found


# --- Neware -------------------------------------------------------------------------------------


@pytest.fixture
def fastnda() -> Any:
    return pytest.importorskip("fastnda", reason='pip install -e ".[cyclers]" for Neware\'s files')


NEWARE = [("neware.nda", neware_nda.tables_nda), ("neware.ndax", neware_nda.tables_ndax)]


@pytest.mark.parametrize(("name", "tables"), NEWARE)
def test_neware_agrees_with_the_vendors_export(
    fastnda: Any, name: str, tables: Callable[[bytes], list[Any]]
) -> None:
    ((head, table),) = tables(sample(name).read_bytes())
    golden = pq.read_table(sample(f"{name}.golden.parquet"))
    assert table.num_rows == golden.num_rows and head.dialect == "Neware"

    def ours(column: str) -> np.ndarray[Any, Any]:
        return table[column].to_numpy().astype(float)

    def theirs(column: str) -> np.ndarray[Any, Any]:
        return golden[column].to_numpy().astype(float)

    # The export has a decimal of its units, or loses more, and whole ms.
    close = partial(np.testing.assert_allclose, rtol=2e-6)
    close(ours("Current(mA)") * 1000, theirs("Current(uA)"), atol=0.051)
    close(ours("Voltage(V)") * 1000, theirs("Voltage(mV)"), atol=0.051)
    close(ours("Step Time(s)"), theirs("Time"), atol=0.0011)
    close(ours("Total Time(s)"), theirs("Total Time"), atol=0.0011)
    for ending, column in (("Cap.(mAh)", "Capacity(mAs)"), ("Energy(mWh)", "Energy(mWs)")):
        amount = ours(f"Chg. {ending}") + ours(f"DChg. {ending}")
        close(amount * 3600, np.abs(theirs(column)), atol=0.051)
    assert table["Cycle Index"].to_pylist() == golden["Cycle Index"].to_pylist()
    assert table["Step Index"].to_pylist() == golden["Step Index"].to_pylist()
    assert table["Step Type"].to_pylist() == golden["Step Type"].to_pylist()
    assert table["Date"].to_pylist() == golden["Date"].to_pylist()
    assert table["DataPoint"].to_pylist() == list(range(1, table.num_rows + 1))
    for number, column in enumerate(("T1(?)", "T2(?)"), 1):
        if column in golden.column_names:
            close(ours(f"Aux_Temperature_{number}(C)"), theirs(column), atol=0.051)


@pytest.mark.parametrize(("name", "tables"), NEWARE)
def test_names_of_neware_columns_mean_what_they_hold(
    fastnda: Any, name: str, tables: Callable[[bytes], list[Any]]
) -> None:
    ((_, table),) = tables(sample(name).read_bytes())
    fields = fields_of(table)
    assert fields["Date"] == "recorded_at" and table.schema.field("Date").type == pa.timestamp("us")
    assert fields["Step Time(s)"] == "step_time_s" and fields["Total Time(s)"] == "test_time_s"
    assert fields["Chg. Cap.(mAh)"] == "charge_capacity_ah"
    assert fields["DChg. Energy(mWh)"] == "discharge_energy_wh"
    current = resolve("Current(mA)")
    assert current is not None and current.field == "current_a" and current.scale == 1e-3
    # No two columns compete for one field.
    assert sorted(fields.values()) == sorted(set(fields.values()))


def test_neware_capacity_is_the_integral_of_the_current(fastnda: Any) -> None:
    ((_, table),) = neware_nda.tables_nda(sample("neware.nda").read_bytes())
    seconds, current = (
        table[name].to_numpy().astype(float) for name in ("Total Time(s)", "Current(mA)")
    )
    for name, sign in (("Chg. Cap.(mAh)", 1), ("DChg. Cap.(mAh)", -1)):
        counter = table[name].to_numpy().astype(float)
        counted = np.diff(counter, prepend=0).clip(min=0).sum()
        flow = np.clip(sign * current, 0, None)
        integral = np.sum(np.diff(seconds) * (flow[1:] + flow[:-1]) / 2) / 3600
        assert counted > 0 and integral == pytest.approx(counted, rel=0.03)


def test_neware_heads_name_the_start_and_keep_what_is_said(fastnda: Any) -> None:
    ((head, _),) = neware_nda.tables_ndax(sample("neware.ndax").read_bytes())
    values = dict(head.values)
    assert head.start == "2024-11-18 12:43:31"
    assert values["remarks"] == "Unit27_Example_Data_File" and values["device"] == "27-0-81"
    # A number alone can be a placeholder; the file's name is more certain.
    assert values["barcode"] == "123456789012" and head.equipment is None


@pytest.mark.parametrize(
    ("start", "zone"),
    [
        ("2020-03-25 11:16:21", None),  # counted in local time
        ("2020-03-25 19:16:21", "UTC"),  # the computer's clock is eight hours ahead of UTC
        ("2020-03-25 11:03:00", None),  # the first reading is late, whatever the reason
        (None, None),
    ],
)
def test_neware_unix_seconds_get_a_zone_only_where_the_start_shows_it(
    start: str | None, zone: str | None
) -> None:
    first = dt.datetime(2020, 3, 25, 11, 16, 50, tzinfo=dt.UTC)
    begun = None if start is None else dt.datetime.fromisoformat(start)
    times = neware_nda._to_times(pa.array([first.timestamp()]), begun)
    assert times.type == pa.timestamp("us", zone)
    assert times[0].as_py().replace(tzinfo=dt.UTC) == first


def test_zlib_stays_as_it_is(fastnda: Any) -> None:
    neware_nda._library()
    with pytest.raises(zlib.error):
        zlib.decompress(b"no zlib")
    assert "isal" not in zlib.decompress.__module__
    assert "isal" not in zlib.decompressobj.__module__


@pytest.mark.parametrize("name", ["neware.nda", "neware.ndax"])
def test_without_fastnda_the_message_names_the_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = sample(name).read_bytes()
    for module in [each for each in sys.modules if each.split(".")[0] == "fastnda"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "fastnda", None)
    found = read_file(tmp_path, name, data)
    assert found.errors == ["missing_extra"] and not found.batches
    assert 'pip install "battery-streaming-pipeline[cyclers]"' in found.letters[0]["error_message"]


def test_ndax_is_known_by_its_content_and_in_archives(fastnda: Any, tmp_path: Path) -> None:
    data = sample("neware.ndax").read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("cell_7/cell_7.ndax", data)
        archive.writestr("cell_8/cell_8.csv", "Test_Time(s),Voltage(V),Current(A)\n0,3.5,1\n")
    found = read_file(tmp_path / "a", "both.zip", packed.getvalue())
    assert not found.letters
    assert {batch.origin.equipment_id: batch.table.num_rows for batch in found.batches} == {
        "cell_7": 301,
        "cell_8": 1,
    }
    found = read_file(tmp_path / "b", "cell_9.zip", data)
    assert [batch.table.num_rows for batch in found.batches] == [301]
    assert found.batches[0].origin.equipment_id == "cell_9"


def test_ndax_whose_auxiliary_channels_are_not_listed_says_so(fastnda: Any) -> None:
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(sample("neware.ndax")) as archive,
        zipfile.ZipFile(packed, "w") as changed,
    ):
        for name in archive.namelist():
            if name != "TestInfo.xml":
                changed.writestr(name, archive.read(name))
    ((head, table),) = neware_nda.tables_ndax(packed.getvalue())
    assert table.num_rows == 301 and "Aux_Temperature_1(C)" not in table.column_names
    assert "auxiliary channels" in dict(head.values)["reader"]


def test_nda_whose_readings_are_cut_off_is_refused(tmp_path: Path) -> None:
    data = sample("neware.nda").read_bytes()
    found = read_file(tmp_path, "cell.nda", data[:-860])  # ten readings less, at their border
    assert found.errors == ["truncated_file"] and not found.batches
    assert "122795 bytes of 123655" in found.letters[0]["error_message"]


def test_nda_of_a_version_that_is_not_known_is_refused(fastnda: Any, tmp_path: Path) -> None:
    data = bytearray(sample("neware.nda").read_bytes())
    data[14] = 77
    found = read_file(tmp_path, "cell.nda", bytes(data))
    assert found.errors == ["corrupt_file"]
    assert "version 77 is not yet supported" in found.letters[0]["error_message"]


def test_ndax_that_would_unpack_beyond_measure_is_refused(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("data.ndc", "w") as member,
    ):
        for _ in range(300):
            member.write(bytes(1 << 20))
    found = read_file(tmp_path, "cell.ndax", packed.getvalue())
    assert found.errors == ["corrupt_file"]
    assert "would unpack to 314572800 bytes" in found.letters[0]["error_message"]


# --- BioLogic -----------------------------------------------------------------------------------


def test_mpr_sample_is_physically_consistent() -> None:
    ((head, table),) = biologic_mpr.tables(sample("biologic_mb.mpr").read_bytes())
    seconds, volts = table["time/s"].to_numpy(), table["Ewe/V"].to_numpy()
    assert table.num_rows == 11 and (np.diff(seconds) > 0).all()
    assert ((volts > -1.66) & (volts < -1.64)).all()
    # The charge since the row before is the mean current times the time since.
    current, charge = table["I/mA"].to_numpy(), table["dq/mA.h"].to_numpy()
    mean = charge[1:] * 3600 / np.diff(seconds)
    assert (np.abs(mean - (current[1:] + current[:-1]) / 2) < 0.004).all()
    total = table["(Q-Qo)/mA.h"].to_numpy()
    np.testing.assert_allclose(np.cumsum(charge), total, rtol=1e-9)
    np.testing.assert_allclose(table["Q charge/discharge/mA.h"].to_numpy(), total, rtol=1e-9)
    energy = np.cumsum(np.abs(charge) * np.abs(volts)) / 1000
    np.testing.assert_allclose(table["|Energy|/W.h"].to_numpy(), energy, rtol=1e-3)
    assert set(table["mode"].to_pylist()) == {2} and set(table["Ns"].to_pylist()) == {0}
    assert head.start is not None and head.start.startswith("2023-12-08 09:49:52")
    assert head.dialect == "BioLogic" and dict(head.values)["ec-lab"] == "11.50"


CYCLING = [(1, ""), (2, ""), (31, ""), (65, ""), (131, "<u2"), (4, "<f8"), (7, "<f8"), (13, "<f8"),
           (5, "<f4"), (6, "<f4"), (39, "<u2"), (468, "<u4")]  # fmt: skip


def cycling(count: int) -> list[tuple[Any, ...]]:
    """A charge with 3.6 mA, a row every second; the first row's `ox/red` is set."""
    return [
        (0b10000101 if n == 0 else 0b00000001, 1, 10.0 + n, 0.001 * (n > 0), 0.001 * n, 3.6,
         3.0 + n / 100, 38, 0)
        for n in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("version", [2, 3, 11])
@pytest.mark.parametrize("start_at", [465, 469, 473, 585])
def test_mpr_versions(version: int, start_at: int) -> None:
    data = mpr(CYCLING, cycling(5), version, START_DAYS, start_at)
    ((head, table),) = biologic_mpr.tables(data)
    assert table["mode"].to_pylist() == [1] * 5
    assert table["ox/red"].to_pylist() == [1, 0, 0, 0, 0]
    assert table["Ns changes"].to_pylist() == [0] * 5
    assert table["counter inc."].to_pylist() == [1, 0, 0, 0, 0]
    assert table["time/s"].to_pylist() == [10, 11, 12, 13, 14]
    assert table["Ewe/V"].to_pylist() == pytest.approx([3.0, 3.01, 3.02, 3.03, 3.04])
    assert table["I Range"].to_pylist() == [38] * 5
    assert head.start == "2024-03-14 09:30:00"


def test_mpr_of_the_first_version() -> None:
    columns = [(1, ""), (4, "<f8"), (6, "<f4"), (8, "<f4"), (74, "<f8")]
    ((_, table),) = biologic_mpr.tables(mpr(columns, [(2, 1.0, 3.5, -2.0, 0.25)], version=0))
    assert table.to_pylist() == [
        {"mode": 2, "time/s": 1.0, "Ewe/V": 3.5, "I/mA": -2.0, "|Energy|/W.h": 0.25}
    ]


def test_mpr_without_a_column_of_current_gets_the_mean_one() -> None:
    ((_, table),) = biologic_mpr.tables(mpr(CYCLING, cycling(4)))
    assert table["<I>/mA"].to_pylist() == pytest.approx([0.0, 3.6, 3.6, 3.6])
    rows = cycling(3)
    rows[2] = (*rows[2][:2], rows[1][2], *rows[2][3:])  # a second row at the same time
    ((_, table),) = biologic_mpr.tables(mpr(CYCLING, rows))
    assert table["<I>/mA"].to_pylist() == [0.0, pytest.approx(3.6), None]


def test_mpr_impedance_keeps_biologics_names() -> None:
    columns = [(32, "<f4"), (37, "<f4"), (38, "<f4"), (36, "<f4"), (35, "<f4"), (4, "<f8"),
               (77, "<f4"), (76, "<f4")]  # fmt: skip
    ((_, table),) = biologic_mpr.tables(mpr(columns, [(1e3, 0.5, -0.25, 0.56, 26.6, 1, 3.7, 0.0)]))
    assert table.column_names == [
        "freq/Hz", "Re(Z)/Ohm", "-Im(Z)/Ohm", "|Z|/Ohm", "Phase(Z)/deg", "time/s", "<Ewe>/V",
        "<I>/mA",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name"), [("<f8", "Q charge/mA.h"), ("<f4", "|Ece h2|/V")], ids=["double", "single"]
)
def test_mpr_number_with_two_meanings_is_told_by_the_width(kind: str, name: str) -> None:
    data = mpr([(4, "<f8"), (498, kind)], [(1.0, 0.5), (2.0, 0.75)])
    ((_, table),) = biologic_mpr.tables(data)
    assert table[name].to_pylist() == [0.5, 0.75]


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (mpr([(4, "<f8"), (475 + 100, "<f4")], [(1, 2)]), "unsupported_variant", "number 575"),
        (mpr([(4, "<f4")], [(1,), (2,), (3,)]), "corrupt_file", "3 rows of 8 bytes"),
        (mpr([(4, "<f8")], []), "no_rows", "no readings"),
        (mpr([(4, "<f8")], [(1,)])[:229], "truncated_file", "no data module"),
        (mpr([(4, "<f8")], [(1,)])[:-1], "truncated_file", "within a module"),
        (mpr([(4, "<f8")], [(1,)]).replace(b"MODULEVMP data", b"MODULAVMP data"), "corrupt_file",
         "no module"),
        (b"BIO-LOGIC", "corrupt_file", "named .mpr"),
    ],
)  # fmt: skip
def test_mpr_that_cannot_be_read_says_why(
    data: bytes, error: str, text: str, tmp_path: Path
) -> None:
    # The settings module of such a file ends after 229 bytes.
    found = read_file(tmp_path, "cell.mpr", data)
    assert found.errors == [error] and not found.batches
    assert text in found.letters[0]["error_message"]


def test_mpr_of_a_version_that_is_not_known_is_refused() -> None:
    data = mpr([(4, "<f8")], [(1,)])
    at = data.index(b"VMP data") + 35 + 4
    with pytest.raises(Refused, match=r"version 9 .* export the file as text"):
        biologic_mpr.tables(data[:at] + b"\x09" + data[at + 1 :])


# --- Arbin --------------------------------------------------------------------------------------

NORMAL = [
    ("Test_ID", "LONG"), ("Data_Point", "LONG"), ("Test_Time", "DOUBLE"), ("Step_Time", "DOUBLE"),
    ("DateTime", "DOUBLE"), ("Step_Index", "INT"), ("Cycle_Index", "INT"), ("Is_FC_Data", "BYTE"),
    ("Current", "FLOAT"), ("Voltage", "FLOAT"), ("Charge_Capacity", "DOUBLE"),
    ("Discharge_Capacity", "DOUBLE"), ("Charge_Energy", "DOUBLE"), ("Discharge_Energy", "DOUBLE"),
    ("dV/dt", "FLOAT"), ("Internal_Resistance", "FLOAT"), ("AC_Impedance", "FLOAT"),
    ("ACI_Phase_Angle", "FLOAT"),
]  # fmt: skip
GLOBAL = [("Test_ID", "LONG"), ("Test_Name", "TEXT"), ("Channel_Index", "INT"),
          ("Start_DateTime", "DOUBLE"), ("Item_ID", "TEXT"), ("Comments", "MEMO")]  # fmt: skip


def normal_row(test: int, point: int) -> list[Any]:
    """A row of a charge with 1 A from 3 V; single values are such that a float32 has exactly."""
    seconds = 30.0 * point
    return [
        test, point, seconds, seconds / 2, START_DAYS + (test - 1) + seconds / DAY_S, 2, 1, 0, 1.0,
        3 + point / 1024, seconds / 3600, 0.0, seconds / 1000, 0.0, 0.25,
        None if point % 3 else 0.125, 0.0, 0.0,
    ]  # fmt: skip


def table_lines(name: str, columns: list[tuple[str, str]], rows: list[list[Any]]) -> list[Any]:
    head = ["table", name, *(word for column in columns for word in column)]
    return [head, *(["row", *row] for row in rows)]


def two_tests(count: int) -> list[list[Any]]:
    """The rows of two tests, mixed."""
    rows = [normal_row(test, point) for test in (1, 2) for point in range(1, count + 1)]
    random.Random(5).shuffle(rows)
    return rows


@pytest.fixture(scope="module")
def access() -> Access:
    return available(Access)


@pytest.fixture(scope="module")
def results(access: Access, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A results file of two tests of 700 rows each, with two auxiliary inputs in the first."""
    auxiliary = [[1, point, index, kind, 20 + point / 64 + index]
                 for point in range(1, 701, 7) for index, kind in ((3, 1), (5, 1), (1, 0))]  # fmt: skip
    lines = [
        *table_lines(
            "Global_Table",
            GLOBAL,
            [[1, "Formation", 4, START_DAYS, "LFP_Zelle Σ12", "note"],
             [2, "Aging_B2", 5, START_DAYS + 1, None, None]],
        ),
        *table_lines("Channel_Normal_Table", NORMAL, two_tests(700)),
        *table_lines(
            "Auxiliary_Table",
            [("Test_ID", "LONG"), ("Data_Point", "LONG"), ("Auxiliary_Index", "INT"),
             ("Data_Type", "INT"), ("X", "FLOAT")],
            auxiliary,
        ),
        *table_lines(
            "Aux_Global_Data_Table",
            [("Auxiliary_Index", "INT"), ("Data_Type", "INT"), ("Unit", "TEXT")],
            [[3, 1, "C"], [5, 1, "C"], [1, 0, "V"]],
        ),
    ]  # fmt: skip
    path: Path = tmp_path_factory.mktemp("res") / "made.res"
    data = access.write(path, lines)
    path.unlink()
    return data


def check_two_tests(found: list[Any], count: int) -> None:
    """The tables are those of `two_tests`, in order and to the bit."""
    assert [table.num_rows for _, table in found] == [count, count]
    for test, (_, table) in enumerate(found, 1):
        expected = [normal_row(test, point) for point in range(1, count + 1)]
        names = ["Data_Point", "Test_Time(s)", "Step_Time(s)", None, "Step_Index", "Cycle_Index",
                 "Is_FC_Data", "Current(A)", "Voltage(V)", "Charge_Capacity(Ah)",
                 "Discharge_Capacity(Ah)", "Charge_Energy(Wh)", "Discharge_Energy(Wh)",
                 "dV/dt(V/s)", "Internal_Resistance(Ohm)", "AC_Impedance(Ohm)",
                 "ACI_Phase_Angle(Deg)"]  # fmt: skip
        for index, name in enumerate(names, 1):
            if name is not None:
                assert table[name].to_pylist() == [row[index] for row in expected], name
        begun = START + dt.timedelta(days=test - 1)
        assert table["Date_Time"].to_pylist() == [
            begun + dt.timedelta(seconds=30 * point) for point in range(1, count + 1)
        ]


def test_res_gives_one_table_a_test(results: bytes) -> None:
    found = arbin_res.tables(results)
    check_two_tests(found, 700)
    (first, table), (second, _) = found
    assert "Test_ID" not in table.column_names  # it counts within the file
    assert first.equipment == "LFP_Zelle Σ12" and second.equipment == "Aging_B2"
    assert first.start == "2024-03-14 09:30:00.000" and second.start == "2024-03-15 09:30:00.000"
    assert dict(first.values)["channel_index"] == "4" and first.dialect == "Arbin"
    fields = fields_of(table)
    assert fields["Date_Time"] == "recorded_at" and fields["Data_Point"] == "record_index"
    assert fields["Internal_Resistance(Ohm)"] == "internal_resistance_ohm"
    assert fields["Aux_Temperature_1(C)"] == "temperature_c"


def test_res_auxiliary_inputs_stand_in_their_rows(results: bytes) -> None:
    (_, table), (_, other) = arbin_res.tables(results)
    for name, index in (
        ("Aux_Temperature_1(C)", 3), ("Aux_Temperature_2(C)", 5), ("Aux_Voltage_1(V)", 1),
    ):  # fmt: skip
        assert table[name].to_pylist() == [
            20 + point / 64 + index if point % 7 == 1 else None for point in range(1, 701)
        ]
        assert name not in other.column_names


def test_res_batches_are_numbered_on_and_carry_their_cell(results: bytes, tmp_path: Path) -> None:
    found = read_file(tmp_path, "lab/run.res", results)
    assert [
        (batch.origin.equipment_id, batch.origin.first_row, batch.table.num_rows)
        for batch in found.batches
    ] == [("LFP_Zelle Σ12", 1, 700), ("Aging_B2", 701, 700)]
    found.check_origins()
    found = read_file(tmp_path, "lab/run.res", results, equipment_id="told")
    assert {batch.origin.equipment_id for batch in found.batches} == {"told"}


def test_res_with_encoded_pages(access: Access, results: bytes, tmp_path: Path) -> None:
    path = tmp_path / "encoded.res"
    path.write_bytes(encoded(results, 0x5EED1234))
    # Another implementation reads it, so it is encoded as Access does it.
    assert len(access.read(path, "Channel_Normal_Table")) == 1400
    check_two_tests(arbin_res.tables(path.read_bytes()), 700)


@pytest.mark.parametrize("version", ["V2003", "V2010"])
def test_res_of_later_versions_of_access(access: Access, tmp_path: Path, version: str) -> None:
    lines = table_lines("Channel_Normal_Table", NORMAL, two_tests(40))
    found = read_file(tmp_path, "b.res", access.write(tmp_path / "a.res", lines, version)).batches
    assert [batch.table.num_rows for batch in found] == [40, 40]
    assert {batch.origin.equipment_id for batch in found} == {"b"}  # nothing names the cells


def test_res_with_deleted_rows_later_columns_and_moved_rows(access: Access, tmp_path: Path) -> None:
    columns = [*NORMAL, ("Remark", "TEXT")]
    rows = [[*normal_row(1, point), "x"] for point in range(1, 101)]
    lines = [
        *table_lines("Channel_Normal_Table", columns, rows),
        ["delete", "Data_Point", "50"],
        ["set", "Data_Point", "10", "Remark", "y" * 200],  # no longer fits where it was
        ["set", "Data_Point", "11", "Remark", "y" * 200],
        ["column", "Later", "DOUBLE"],
        ["row", *normal_row(1, 101), "x", 7.5],
    ]
    ((_, table),) = arbin_res.tables(access.write(tmp_path / "a.res", lines))
    expected = [point for point in range(1, 102) if point != 50]
    assert table["Data_Point"].to_pylist() == expected
    assert table["Voltage(V)"].to_pylist() == [3 + point / 1024 for point in expected]
    assert table["Later"].to_pylist() == [None] * 99 + [7.5]


def test_res_whose_list_of_pages_is_wrong_is_read_by_what_each_page_says(results: bytes) -> None:
    base = Database(results)
    definition = base.definition(base.tables["Channel_Normal_Table"])
    row, page = definition[55], int.from_bytes(definition[56:59], "little")
    at = page * PAGE + (int.from_bytes(base.page(page)[14 + 2 * row : 16 + 2 * row], "little"))
    for broken in (b"\x07", b"\x00\xff\xff\xff\x7f"):  # of no kind; about pages that are not
        check_two_tests(arbin_res.tables(results[:at] + broken + results[at + len(broken) :]), 700)


def test_res_that_lacks_rows_or_tables_is_refused(
    access: Access, results: bytes, tmp_path: Path
) -> None:
    other = access.write(tmp_path / "o.res", table_lines("Things", [("A", "LONG")], [[1]]))
    found = read_file(tmp_path, "x.res", other)
    assert (
        found.errors == ["no_data_table"] and "it has Things" in found.letters[0]["error_message"]
    )
    few = table_lines("Channel_Normal_Table", NORMAL[:5], [])
    found = read_file(tmp_path, "x.res", access.write(tmp_path / "f.res", few))
    assert found.errors == ["no_data_table"]
    assert "lacks Current, Voltage" in found.letters[0]["error_message"]
    empty = table_lines("Channel_Normal_Table", NORMAL, [])
    found = read_file(tmp_path, "x.res", access.write(tmp_path / "e.res", empty))
    assert found.errors == ["no_rows"]
    found = read_file(tmp_path, "x.res", results[: len(results) // 8192 * 4096])
    assert found.errors == ["truncated_file"] and not found.batches
    jet3 = results[:20] + b"\x00" + results[21:]
    found = read_file(tmp_path, "x.res", jet3)
    assert found.errors == ["unsupported_variant"]
    assert "Access 97" in found.letters[0]["error_message"]


def test_access_database_is_known_by_its_first_bytes(results: bytes, tmp_path: Path) -> None:
    assert len(read_file(tmp_path, "run.mdb", results).batches) == 2
    found = read_file(tmp_path, "run.res", b"\x00\x01\x02 no database")
    assert found.errors == ["corrupt_file"] and "named .res" in found.letters[0]["error_message"]


# --- All ----------------------------------------------------------------------------------------


@pytest.fixture(params=["a.nda", "a.ndax", "a.mpr", "made.mpr", "a.res", "encoded.res"])
def whole(request: pytest.FixtureRequest) -> tuple[str, bytes]:
    """A file of each format, and its name."""
    name: str = request.param
    if name == "made.mpr":
        return name, mpr(CYCLING, cycling(50), 11, START_DAYS, 585)
    if name == "a.res":
        return name, request.getfixturevalue("results")
    if name == "encoded.res":
        return name, encoded(request.getfixturevalue("results")[: 60 * 4096], 0x1234)
    if name.startswith("a.nd"):
        request.getfixturevalue("fastnda")
    path = {"a.nda": "neware.nda", "a.ndax": "neware.ndax", "a.mpr": "biologic_mb.mpr"}[name]
    return name, sample(path).read_bytes()


def test_truncated_files_are_refused_wherever_they_end(whole: tuple[str, bytes]) -> None:
    name, data = whole
    ends = [len(data) * part // 20 for part in range(1, 20)] + [len(data) - 1, 1]
    for end in ends:
        found = outputs_of(name, data[:end])
        assert found, end
        # BioLogic's log comes last: without it all readings are there.
        assert all(isinstance(each, DeadLetter) for each in found), (end, found)


def test_damage_never_raises_out_of_the_reader(whole: tuple[str, bytes]) -> None:
    name, data = whole
    draw = random.Random(name)
    begun = time.monotonic()
    for _ in range(60 if name != "encoded.res" else 5):
        broken = bytearray(data)
        # The heads, where numbers lead the reader, as often as the rest.
        ends = draw.choice([64, 512, 8192, len(broken)])
        for _ in range(draw.choice([1, 3, 30])):
            broken[draw.randrange(min(ends, len(broken)))] = draw.choice(
                [0, 255, draw.randrange(256)]
            )
        outputs_of(name, bytes(broken))
    assert time.monotonic() - begun < 60
