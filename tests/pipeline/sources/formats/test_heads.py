"""What stands above a table is read: whose file it is, when the test began, which cell it was."""

from __future__ import annotations

import pytest

from pipeline.sources.formats.dialect import sniff
from pipeline.sources.formats.head import read
from transforms.interpret.interpretation import Head


@pytest.mark.parametrize(
    ("lines", "dialect", "start", "equipment"),
    [
        (["EC-Lab ASCII FILE", "Acquisition started on : 03/01/2024 10:00:00", "Battery : K7"],
         "BioLogic", "03/01/2024 10:00:00", "K7"),
        (["[Novonix]", "Started: 2024-03-01 10:00:00", "Cell: N_12"], "Novonix",
         "2024-03-01 10:00:00", "N_12"),
        (["~Resultfile from Basytec", "~Start of Test: 01.03.2024 10:00:00", "~Battery: B3"],
         "Basytec", "01.03.2024 10:00:00", "B3"),
        (["Today's Date\t03/02/2024\tDate of Test:\t03/01/2024 10:00:00 AM\tFilename"], "Maccor",
         "03/01/2024 10:00:00 AM", None),
        (["TestRegime Name:,x", "Start Time,3/1/2024 10:00"], "PEC", "3/1/2024 10:00", None),
        (["启动时间：2024年3月1日 10:00", "新威", "电池条码: C-9"], "Neware", "2024年3月1日 10:00", "C-9"),
        (["Start time = 20240301", 'Cell ID;"X 1"'], None, "20240301", "X 1"),
        (["nothing of interest", "", ":::"], None, None, None),
        ([], None, None, None),
    ],
)  # fmt: skip
def test_heads_of_many_makers(
    lines: list[str], dialect: str | None, start: str | None, equipment: str | None
) -> None:
    head = read(lines)
    assert (head.dialect, head.start, head.equipment) == (dialect, start, equipment)


def test_a_start_that_is_no_date_is_none() -> None:
    assert read(["Start: button pressed", "Begin: 2024-03-01"]).start == "2024-03-01"


def test_the_first_of_two_lines_of_one_key_counts() -> None:
    head = read(["Cell: A", "Cell: B"])
    assert head.equipment == "A" and dict(head.values) == {"cell": "A"}


def test_a_date_of_test_goes_before_other_starts() -> None:
    assert read(["Start: 2020-01-01", "Date of Test: 03/01/2024"]).start == "03/01/2024"


# --- whose head a text has -----------------------------------------------------------------------


def biologic(lines: int, said: int | None = None) -> bytes:
    above = [f"note {at}: 1\tEwe/V\tI/mA" for at in range(lines)]
    text = ["EC-Lab ASCII FILE", f"Nb header lines : {said or lines + 3}", *above,
            "mode\ttime/s\tEwe/V\tI/mA", "1\t0,5\t3,7\t1,0", ""]  # fmt: skip
    return "\n".join(text).encode()


@pytest.mark.parametrize("lines", [0, 5, 400])
def test_a_header_stands_where_the_file_says(lines: int) -> None:
    dialect = sniff(biologic(lines), "a.mpt")
    assert dialect.names == ("mode", "time/s", "Ewe/V", "I/mA")
    assert dialect.head.dialect == "BioLogic"
    assert dialect.first_line == lines + 4


def test_a_place_of_the_header_beyond_the_file_is_not_believed() -> None:
    assert "Ewe/V" in sniff(biologic(0, said=9999), "a.mpt").names


def test_a_header_behind_a_comment_sign() -> None:
    data = b"~Battery: B3\n~Time[h] DataSet U[V]\n~Time[h]\tU[V]\tI[A]\n0.1\t3.7\t1.0\n"
    dialect = sniff(data, "a.txt")
    assert dialect.names == ("Time[h]", "U[V]", "I[A]")
    assert dialect.head.equipment == "B3"


def test_a_protocol_longer_than_any_is_passed_over() -> None:
    long = "".join(f"{at}: step, limit, remark\n" for at in range(260))
    data = (long + "Time(s),Voltage(V),Current(A)\n1,3.7,1\n").encode()
    assert sniff(data, "a.csv").names == ("Time(s)", "Voltage(V)", "Current(A)")


@pytest.mark.parametrize("encoding", ["gb18030", "utf-8", "utf-16"])
def test_chinese_headers_in_any_encoding(encoding: str) -> None:
    data = "工步类型,电压(V),电流(mA)\n恒流充电,3.7,1\n".encode(encoding)
    dialect = sniff(data, "a.csv")
    assert dialect.names == ("工步类型", "电压(V)", "电流(mA)")
    assert dialect.encoding.startswith(encoding[:6])


@pytest.mark.parametrize(
    ("header", "encoding"),
    [
        ("Zeit [s];Temperatur [°C];Spannung [V];Größe", "latin-1"),
        ("Time(s);T(°C);Voltage(V)", "latin-1"),
        ("Zeit [s];Gerät für Prüfung;T/°C;I/µA;Voltage(V)", "latin-1"),
        ("工步时间;电压(V);镕;T(℃)", "gb18030"),
        ("Time(s);T(℃);Voltage(V)", "gb18030"),
    ],
)
def test_western_signs_and_chinese_ones_are_told_apart(header: str, encoding: str) -> None:
    assert sniff(f"{header}\n1;2;3;4\n".encode(encoding), "a.csv").encoding == encoding


def test_a_header_of_levels_is_told_from_one_with_empty_cells() -> None:
    layered = "Cycle,Cap(mAh)\n,Step,Step Type\n,,Record,Time,Voltage(V),Current(mA)\n,,1,0,3.7,1\n"
    dialect = sniff(layered.encode(), "a.csv")
    assert dialect.levels == (("Cycle", "Cap(mAh)"), ("", "Step", "Step Type"))
    assert not dialect.splittable
    for text in (",,Record,Voltage(V),Current(A)\n,,1,3.7,1\n",
                 "Cycle\n\n,,Record,Voltage(V),Current(A)\n,,1,3.7,1\n"):  # fmt: skip
        assert sniff(text.encode(), "a.csv").levels == ()


def test_without_a_head_nothing_is_made_up() -> None:
    assert sniff(b"Voltage(V),Current(A)\n3.7,1\n", "a.csv").head == Head()
