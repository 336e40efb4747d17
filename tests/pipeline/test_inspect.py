"""The inspector names what is unusual in a file, for a person and as JSON, and ends as it should."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.inspect import main

DATA = Path(__file__).parents[1] / "data" / "cyclers"
GOOD = DATA / "silent" / "01_maccor_unsigned_state.txt"
NO_DATE = "time_assumed"


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str

    @property
    def texts(self) -> dict[str, str]:
        """What was printed of each file, by its name; runs of spaces as one."""
        parts = (part.split("\n", 1) for part in self.out.strip("\n").split("\n\n"))
        return {name: " ".join(text.split()) for name, text in parts}

    @property
    def objects(self) -> dict[str, dict[str, Any]]:
        """What `--json` printed of each file, by its name."""
        found = [json.loads(line) for line in self.out.splitlines()]
        assert len({each["file"] for each in found}) == len(found)
        return {each["file"]: each for each in found}


def inspect(*arguments: object) -> Ran:
    """Runs the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:  # what argparse does with a wrong flag
            status = int(end.code or 0)
    return Ran(status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def printed() -> Ran:
    return inspect(DATA)


@pytest.fixture(scope="module")
def as_json() -> Ran:
    return inspect("--json", DATA)


@dataclass(frozen=True)
class Symptom:
    """What has to be said of a file.

    Attributes:
        file: its name with its folder.
        says: parts of the text.
        says_not: what stands nowhere in the text.
        facts: values of the JSON object, by a path of keys joined by dots.
        doubts: its disagreements.
    """

    file: str
    says: tuple[str, ...]
    says_not: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()


SYMPTOMS = [
    Symptom(
        "silent/01_maccor_unsigned_state.txt",
        ("current without sign in the file: the state gives the direction",
         "State -> state (names directions)"),
        facts={"current_sign": "from_state", "columns.state.column": "State"},
    ),
    Symptom(
        "silent/02_maccor_minute_clock.txt",
        ("TestTime -> test_time_s (min, x 60, by the wall clock)",
         "StepTime -> step_time_s (min, x 60, as the test's clock)", "TestTime runs as min"),
        facts={"columns.test_time_s.factor": 60, "columns.step_time_s.factor": 60},
    ),
    Symptom(
        "silent/03_neware_step_clock.csv",
        ("Cumulative Time -> test_time_s", "Time -> step_time_s (h:m:s, beside Cumulative Time)",
         "cycles 2; steps 8", "counters restart with the step"),
        facts={"columns.step_time_s.column": "Time", "cycles": 2, "counter_grain": "step"},
    ),
    Symptom(
        "04_pec_two_cells/Test101.csv",
        ("Cell ID -> equipment_id", "equipment CELL_A", "time 2024-01-05 08:00:00 UTC",
         "Total Time (Hours in hh:mm:ss.xxx) -> test_time_s (h:m:s)"),
        facts={"equipment": ["CELL_A"], "columns.equipment_id.column": "Cell ID"},
    ),
    Symptom(
        "04_pec_two_cells/Test102.csv",
        ("Cell ID -> equipment_id", "equipment CELL_B", "time 2024-01-09 08:00:00 UTC"),
        facts={"equipment": ["CELL_B"], "columns.recorded_at.column": "Real Time"},
    ),
    Symptom(
        "CellX/CellX_Channel_7_StatisticByCycle.CSV",
        ("statistics 3 cycles summed up by the cycler: a witness, not readings",),
        facts={"cycle_summaries": 3, "readings": 0},
    ),
    Symptom(
        "CellX/CellX_Channel_7_Wb_1.csv",
        ("rows 360: 360 readings", "cycles 3; steps 6"),
        facts={"cycles": 3, "equipment": ["CellX"]},
    ),
    Symptom(
        "silent/06_microampere_utf8.csv",
        ("Current(μA) -> current_a (μA, x 1e-06)", "Capacity(μAh) -> capacity (μAh, x 1e-06",
         "integral 0.0005 Ah in"),
        facts={"columns.current_a.factor": pytest.approx(1e-6)},
    ),
    Symptom(
        "silent/06_microampere_gbk.csv",
        ("Current(μA) -> current_a (μA, x 1e-06)", "integral 0.0005 Ah in"),
        facts={"columns.current_a.column": "Current(μA)"},
    ),
    Symptom(
        "silent/07_thousands_separator.csv",
        ("numbers decimal point, commas between thousands: 1,234.5", "integral 1.5 Ah in"),
        facts={"numbers": "point", "charge_ah": pytest.approx(1.5)},
        doubts=(NO_DATE,),
    ),
    Symptom(
        "silent/08_sign_inverted.bdf.csv",
        ("current positive discharges in the file: sign reversed",
         "direction, Step Type / 1: agrees with the file's sign in 0% of the charge",
         "direction, growth of the counters: agrees with the file's sign in 0% of the charge"),
        facts={"current_sign": "positive_discharges"},
        doubts=(NO_DATE,),
    ),
    Symptom(
        "silent/09_pybamm_net_discharge.csv",
        ("layout PyBaMM", "current positive discharges in the file: sign reversed",
         "net value: rises on discharge, falls on charge"),
        facts={"columns.capacity.counts": "net_discharge"},
        doubts=(NO_DATE,),
    ),
    Symptom(
        "silent/10_same_second_other_rows.csv",
        ("rows 600: 600 readings", "540 rows have the time of the row before"),
        ("duplicates",),
        facts={"readings": 600, "duplicates": 0},
        doubts=("direction_guessed", NO_DATE),
    ),
    Symptom(
        "silent/11_counter_dips.csv",
        ("flags counter_dip 3", "counters restart with the test"),
        ("counter_reset",),
        facts={"flags": {"counter_dip": 3}},
    ),
    Symptom(
        "silent/12_sparse_log.csv",
        ("a row every 600 s", "flags none", "integral 1 Ah in"),
        ("gap",),
        facts={"sampling_interval_s": 600, "flags": {}},
    ),
    Symptom(
        "silent/13_clock_set_back.txt",
        ("DPt Time goes back once, by up to 3540 s, while the test runs on",
         "in doubt clock_disagrees", "flags clock_disagrees", "cycles 2; steps 4"),
        facts={"cycles": 2},
        doubts=("clock_disagrees",),
    ),
    Symptom(
        "silent/14_test_sec_pulse.052",
        ("Test (Sec) -> test_time_s (Sec)", "a row every 0.01 s", "0.008053 Ah out"),
        facts={"columns.test_time_s.column": "Test (Sec)", "sampling_interval_s": pytest.approx(0.01)},
    ),
    Symptom(
        "silent/15_impedance_rows.csv",
        ("Frequency_Hz -> frequency_hz", "equipment 15_impedance_rows (battery_cell)",
         "impedance 10", "rows 132: 132 readings"),
        ("machine", "duplicates"),
        facts={"equipment_types": ["battery_cell"], "flags.impedance": 10},
        doubts=(NO_DATE,),
    ),
    Symptom(
        "silent/15_frequency_zero.csv",
        ("freq/Hz -> frequency_hz (Hz)", "equipment 15_frequency_zero (battery_cell)"),
        ("machine", "impedance"),
        facts={"equipment_types": ["battery_cell"], "cycles": 1},
        doubts=(NO_DATE,),
    ),
    Symptom(
        "silent/16_date_beside_timestamp.csv",
        ("timestamp -> recorded_at", "left over date",
         "time 2024-03-01 23:30:00 UTC to 2024-03-02 00:30:00 UTC"),
        facts={"event_time": "timestamp", "left": ["date"]},
    ),
    Symptom(
        "silent/16_date_and_time.csv",
        ("event time Date + Time", "Time -> clock_of_day (added to the date)",
         "time 2024-03-01 23:30:00 UTC to 2024-03-02 00:30:00 UTC"),
        facts={"event_time": "Date + Time"},
    ),
    Symptom(
        "silent/17_dashes_dmy.csv",
        ("event time Date_Time (dmy)", "time 2024-04-12 20:00:00 UTC to 2024-04-13 04:00:00 UTC"),
        ("refused",),
        facts={"date_order": "dmy"},
    ),
    Symptom(
        "silent/18_ms_under_seconds.bdf.csv",
        ("test_time_second -> test_time_s (ms, x 0.001, by the wall clock)",
         "test_time_second runs as ms, not as its name says"),
        facts={"columns.test_time_s.unit": "ms"},
    ),
    Symptom(
        "silent/19_old_bdf_names.bdf.csv",
        ("test_time_millisecond -> test_time_s (millisecond, x 0.001)",
         "date_time_millisecond -> recorded_at (millisecond, x 0.001)",
         "cycle_dimensionless -> cycle_index", "time 2024-03-01 09:00:00 UTC"),
        facts={"cycles": 2},
    ),
    Symptom(
        "silent/20_neware_flat.csv",
        ("Time(h:min:s.ms) -> step_time_s (h:m:s", "Realtime -> recorded_at",
         "Capacitance_Chg(mAh) -> charge_capacity_ah (mAh, x 0.001, counts charge)",
         "time 2024-03-01 09:00:00 UTC"),
        facts={"counter_grain": "step"},
    ),
    Symptom(
        "silent/21_digatron.csv",
        ("Prog Time -> test_time_s (h:m:s)", "a row every 0.1 s", "cycles 1; steps 24"),
        facts={"steps": 24},
    ),
    Symptom(
        "silent/22_bdf_within_step_counter.bdf.csv",
        ("step, step_index: it goes up with every row: it counts rows, not steps",
         "step_count -> step_index", "left over step_index", "cycles 2; steps 8"),
        facts={"columns.step_index.column": "step_count", "steps": 8},
    ),
    Symptom(
        "CellY/CellY_Channel_7_Wb_1.csv",
        ("tests CellY@2024-03-01T09:01:00Z", "time 2024-03-01 09:01:00 UTC"),
        facts={"tests": ["CellY@2024-03-01T09:01:00Z"]},
    ),
    Symptom(
        "CellY/CellY_Channel_7_Wb_2.csv",  # its rows begin three hours later
        ("tests CellY@2024-03-01T09:01:00Z", "time 2024-03-01 12:01:00 UTC"),
        facts={"tests": ["CellY@2024-03-01T09:01:00Z"]},
    ),
    Symptom(
        "refused/biologic.mpt",
        ("layout BioLogic", "Ewe/V -> voltage_v (V)", "I/mA -> current_a (mA, x 0.001)",
         "rows 122: 122 readings"),
        doubts=(NO_DATE,),
    ),
    Symptom(
        "refused/biologic_absolute.mpt",
        ("time/s -> recorded_at", "<I>/mA -> current_a (mA, x 0.001)",
         "numbers decimal comma, points between thousands", "time 2024-03-01 09:00:00 UTC"),
        facts={"numbers": "comma"},
        doubts=("date_order_guessed",),
    ),
    Symptom(
        "refused/novonix.csv",
        ("layout Novonix", "Potential (V) -> voltage_v (V)",
         "Run Time (h) -> test_time_s (h, x 3600)", "rows 61: 61 readings"),
    ),
    Symptom(
        "refused/novonix_long_protocol.csv",
        ("layout Novonix", "Potential (V) -> voltage_v (V)", "rows 61: 61 readings"),
    ),
    Symptom(
        "refused/basytec.txt",
        ("layout Basytec", "I[A] -> current_a (A)", "T1[°C] -> temperature_c (°C)",
         "event time start in the file's head + Time[s]", "rows 61: 61 readings"),
        ("not read",),
    ),
    Symptom(
        "refused/neware_layered.csv",
        ("layout Neware", "Cycle Index -> cycle_index", "Step Type -> state (names directions)",
         "rows 122: 122 readings", "cycles 1; steps 2"),
        ("refused",),
    ),
    Symptom(
        "refused/chinese.csv",
        ("电压(V) -> voltage_v (V)", "电流(A) -> current_a (A)", "绝对时间 -> recorded_at",
         "rows 20: 20 readings"),
    ),
    Symptom(
        "refused/chinese_gbk.csv",
        ("电压(V) -> voltage_v (V)", "工步类型 -> state (names directions)",
         "rows 20: 20 readings"),
    ),
    Symptom(
        "refused/gbk_steps.csv",
        ("Status -> state (names directions)", "rows 20: 20 readings"),
        ("refused", "bad_encoding"),
    ),
    Symptom(
        "refused/nasa.csv",
        ("layout NASA PCoE", "Voltage_measured -> voltage_v (no unit, taken as V)",
         "Time -> test_time_s (s)", "rows 20: 20 readings"),
        doubts=(NO_DATE,),
    ),
    *[
        Symptom(f"refused/stamp_{name}.csv", ("rows 5: 5 readings", f"time 2019-03-14 {first}"))
        for name, first in (
            ("ampm_ms", "13:05:30"), ("ampm_short", "13:05:00"), ("dots", "13:05:30"),
            ("mon_ms", "13:05:30"), ("year_first_ampm", "13:05:30"),
        )
    ],
]  # fmt: skip


@pytest.mark.parametrize("symptom", SYMPTOMS, ids=lambda symptom: symptom.file)
def test_the_text_names_the_symptom(printed: Ran, symptom: Symptom) -> None:
    text = printed.texts[symptom.file]
    for part in symptom.says:
        assert part in text
    for part in symptom.says_not:
        assert part not in text
    assert (
        ("in doubt " + ", ".join(symptom.doubts) in text)
        if symptom.doubts
        else ("in doubt" not in text)
    )


@pytest.mark.parametrize("symptom", SYMPTOMS, ids=lambda symptom: symptom.file)
def test_the_json_names_the_symptom(as_json: Ran, symptom: Symptom) -> None:
    known = as_json.objects[symptom.file]
    for path, wanted in symptom.facts.items():
        value = known
        for key in path.split("."):
            value = value[key]
        assert value == wanted, path
    assert tuple(known.get("disagreements", ())) == symptom.doubts


def test_every_file_is_looked_at(printed: Ran, as_json: Ran) -> None:
    assert printed.status == as_json.status == 0
    names = {symptom.file for symptom in SYMPTOMS}
    assert names == set(printed.texts) == set(as_json.objects)
    files = [path for path in DATA.rglob("*") if path.is_file() and path.name != "README.md"]
    assert len(files) == len(names)


def test_text_and_json_are_about_the_same_rows(printed: Ran, as_json: Ran) -> None:
    for name, known in as_json.objects.items():
        if known["rows"]:
            assert f"rows {known['rows']}: {known['readings']} readings" in printed.texts[name]


def test_a_later_part_alone_begins_its_own_test() -> None:
    """What joins parts is that they are in one source."""
    (known,) = inspect("--json", DATA / "silent/23_arbin_two_parts/CellY/CellY_Channel_7_Wb_2.csv"
                       ).objects.values()  # fmt: skip
    assert known["tests"] == ["CellY@2024-03-01T12:01:00Z"]


@pytest.mark.parametrize("packed", ["gz", "zip"])
def test_packed_files_say_the_same(tmp_path: Path, packed: str) -> None:
    (plain,) = inspect("--json", GOOD).objects.values()
    if packed == "gz":
        path = tmp_path / f"{GOOD.name}.gz"
        path.write_bytes(gzip.compress(GOOD.read_bytes()))
    else:
        path = tmp_path / "all.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(GOOD, GOOD.name)
    (found,) = inspect("--json", path).objects.values()
    assert Path(found.pop("file")).name.startswith(GOOD.name)
    plain.pop("file")
    assert found == plain


def test_several_files_are_each_named() -> None:
    ran = inspect(GOOD, DATA / "refused" / "nasa.csv")
    assert list(ran.texts) == ["silent/01_maccor_unsigned_state.txt", "refused/nasa.csv"]


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_file_without_a_reading_is_status_1_and_shows_why(tmp_path: Path) -> None:
    rows = "".join(f"2024-03-01 09:00:0{n},0.5\n" for n in range(5))
    path = table(tmp_path / "a.csv", f"Date_Time,Current(A)\n{rows}")
    ran = inspect(path)
    assert ran.status == 1
    assert (
        "refused 5 x missing_field: voltage_v is missing; the file has Date_Time, Current(A)"
        in ran.texts[f"{tmp_path.name}/a.csv"]
    )
    assert inspect("--json", path).objects[f"{tmp_path.name}/a.csv"]["refused_rows"]


def test_a_unit_that_is_not_understood_is_named(tmp_path: Path) -> None:
    rows = "".join(f"2024-03-01 09:00:0{n},0.5,3.7\n" for n in range(5))
    path = table(tmp_path / "a.csv", f"Date_Time,Current(furlong),Voltage(V)\n{rows}")
    ran = inspect(path)
    assert ran.status == 1
    text = ran.texts[f"{tmp_path.name}/a.csv"]
    assert "not read Current(furlong): the unit 'furlong' is not understood" in text


def test_one_bad_file_of_a_folder_is_status_1_and_the_others_are_shown(tmp_path: Path) -> None:
    (tmp_path / GOOD.name).write_bytes(GOOD.read_bytes())
    (tmp_path / "broken.nda").write_bytes(b"no such format")
    ran = inspect(tmp_path)
    assert ran.status == 1
    assert "183 readings" in ran.texts[f"{tmp_path.name}/{GOOD.name}"]
    assert "refused 1 x corrupt_file" in ran.texts[f"{tmp_path.name}/broken.nda"]


def test_a_header_without_rows_is_status_1(tmp_path: Path) -> None:
    ran = inspect(table(tmp_path / "a.csv", "Date_Time,Current(A),Voltage(V)\n"))
    assert (ran.status, "rows none" in " ".join(ran.out.split())) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("/no/such/file.csv",), "error: /no/such/file.csv matches no file"),
        ((), "the following arguments are required: FILE"),
        (("--sauce=x", GOOD), "unrecognized arguments: --sauce=x"),
        (("--date_order=ymd", GOOD), "error: --date_order: invalid choice: 'ymd'"),
        (("--time_zone=Mars/Base", GOOD), "error: --time_zone=Mars/Base: no such time zone"),
        (("--dialect=/no/such.toml", GOOD), "error: --dialect=/no/such.toml: No such file"),
        (("--equipment_profile=nothing", GOOD), "error: --equipment_profile=nothing"),
        (("kafka://localhost:1/battery",), "only files can be inspected"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_status_2(
    arguments: tuple[object, ...], message: str
) -> None:
    ran = inspect(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert message in ran.err


def test_the_flags_are_the_job_s(tmp_path: Path) -> None:
    rows = "".join(f"03/04/2024 09:{n:02d}:00,0.5,3.7\n" for n in range(10))
    path = table(tmp_path / "a.csv", f"Date_Time,Current(A),Voltage(V)\n{rows}")

    def first(*flags: str) -> str:
        (known,) = inspect("--json", path, *flags).objects.values()
        return f"{known['first_time']} {','.join(known['equipment'])} {known['disagreements']}"

    assert first().startswith("2024-03-04T09:00:00+00:00 a ['date_order_guessed'")
    assert first("--date_order=dmy", "--time_zone=Europe/Berlin", "--equipment_id=LAB7") == (
        "2024-04-03T07:00:00+00:00 LAB7 []"
    )


def test_a_dialect_file_finds_the_header_that_no_known_name_gives_away(tmp_path: Path) -> None:
    rows = "".join(f"{n * 60};0,{500 + n};3,{n:02d}\n" for n in range(10, 60))
    path = table(tmp_path / "lab8.txt", f"Prüfstand 8\nLaufzeit;Kanal 1;Kanal 2\n{rows}")
    assert "no_header" in inspect(path).out
    dialect = table(
        tmp_path / "lab8.toml",
        '[columns]\ntest_time_s = "Laufzeit"\ncurrent_a = "Kanal 1"\nvoltage_v = "Kanal 2"\n',
    )
    (known,) = inspect("--json", path, f"--dialect={dialect}").objects.values()
    assert (known["readings"], known["numbers"]) == (50, "comma")


def test_what_a_dialect_file_says_is_shown_as_told(tmp_path: Path) -> None:
    rows = "".join(f"{n * 60},{500 + n},3.{n:02d}\n" for n in range(50))
    path = table(tmp_path / "lab7.csv", f"Time(s),Kanal 1,Voltage(V)\n{rows}")
    dialect = table(
        tmp_path / "lab7.toml",
        'files = ["lab7*"]\nsign = "positive_discharges"\n[columns]\ncurrent_a = "Kanal 1"\n'
        '[units]\n"Kanal 1" = "mA"\n',
    )
    assert inspect(path).status == 1
    ran = inspect(path, f"--dialect={dialect}")
    assert ran.status == 0
    (text,) = ran.texts.values()
    assert "Kanal 1 -> current_a (mA, x 0.001, as --dialect says)" in text
    assert "current positive discharges in the file: sign reversed" in text
    assert "witness direction, --dialect: the sign is as it says" in text
