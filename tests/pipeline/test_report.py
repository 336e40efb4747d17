"""The report: what the table and the page say of a warehouse, and that the page loads nothing."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import duckdb
import plotly.graph_objects as go
import pytest
import yaml
from plotly.offline import get_plotlyjs

from pipeline.report.__main__ import main
from pipeline.report.doubts import MEANING
from pipeline.report.marts import COLUMNS
from pipeline.report.tables import WIDTH
from schemas.reading import DISAGREEMENTS

ROOT = Path(__file__).resolve().parents[2]
NASTY = '</script><script>alert("x")</script>&<img src=x onerror=alert(1)>'
TEXT = {
    "equipment_id", "equipment_type", "nominal_capacity_source", "status", "rule",
    "kind",
    "kind_reason",
    "invalid_reason", "test_key",
    "test_id", "source_file", "dialect", "direction", "stage_key",
    "model", "model_version", "predicted_by",
}  # fmt: skip


def kind(column: str) -> str:
    """The type of a column, as the models give it."""
    if column in TEXT:
        return "varchar"
    if column in ("disagreements", "reasons"):
        return "varchar[]"
    if column.startswith("is_") or column == "out_of_domain":
        return "boolean"
    if column.endswith("_at"):
        return "timestamptz"
    if column == "day":
        return "date"
    whole = column.endswith(("_cycle", "_number", "point", "points", "readings", "cycles"))
    return "bigint" if whole and "full" not in column and "remaining" not in column else "double"


class Warehouse:
    """A DuckDB file with exactly the models and columns that the report declares."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with duckdb.connect(str(path)) as database:
            for model, columns in COLUMNS.items():
                told = ", ".join(f"{column} {kind(column)}" for column in columns)
                database.execute(f"create table {model} ({told})")

    def run(self, *queries: str) -> None:
        with duckdb.connect(str(self.path)) as database:
            database.execute("set TimeZone = 'UTC'")
            for query in queries:
                database.execute(query)

    def add_cells(self, number: int, cycles: int = 60, name: str = "cell_") -> None:
        """Cells that fade evenly, the first one fastest: 60 cycles end it, and it alone."""
        names = f"'{name.replace(chr(39), chr(39) * 2)}' || cell" if number > 1 else f"'{name}'"
        self.run(
            f"""create temp table c as select {names} as equipment_id, cell, cycle,
                1.1 * (1 - 0.25 * cycle / ({cycles} + 10 * cell)) as ah,
                timestamptz '2024-01-01 00:00:00+00' + to_hours(3 * cycle) as moment
                from range({number}) as a(cell), range(1, {cycles} + 1) as b(cycle)""",
            """insert into dim_equipment by name select equipment_id,
                'battery_cell' as equipment_type, min(moment) as first_seen_at, max(moment) as last_seen_at,
                1000 as readings from c group by all""",
            """insert into battery_health by name select equipment_id, cycle as cycle_number,
                moment as started_at, true as is_complete, true as is_valid, ah as discharge_ah,
                ah as discharge_median_ah, ah / 1.1 as soh_nominal, cycle as equivalent_full_cycles
                from c""",
            """insert into battery_cycles by name select equipment_id, cycle as cycle_number,
                true as is_valid, 0.999 as coulombic_efficiency, 0.92 as energy_efficiency,
                0.08 + cycle / 1e4 as internal_resistance_ohm, 0.15 as dc_resistance_30s_ohm
                from c""",
            """insert into battery_ica_stages by name select equipment_id || '|' || cycle as stage_key,
                equipment_id, cycle as cycle_number, 'charge' as direction, ah as charge_ah,
                70 as known_points from c""",
            """insert into battery_ica by name select equipment_id || '|' || cycle as stage_key,
                point, 3.5 + point / 100 as voltage_v, 5.0 - abs(point - 40) / 10
                as dq_dv_ah_per_v from c, range(1, 71) as p(point)""",
            """insert into battery_lifetime by name select equipment_id,
                1.1 as nominal_capacity_ah, 'profile' as nominal_capacity_source,
                max(ah) as initial_capacity_ah, count(*) as cycles, count(*) as complete_cycles,
                min(ah) as capacity_ah, min(ah) / 1.1 as soh_nominal,
                count(*) as equivalent_full_cycles,
                case when min(ah) < 0.88 then 'end_of_life' else 'in_use' end as status,
                min(case when ah < 0.88 then cycle end) as eol_80_nominal_cycle,
                min(case when ah < 0.88 then moment end) as eol_80_nominal_at, 30 as knee_cycle,
                20 as knee_onset_cycle,
                case when min(ah) >= 0.88 then 12.3 end as remaining_cycles,
                9.0 as remaining_cycles_low, 17.8 as remaining_cycles_high from c group by all""",
            """insert into equipment_daily by name select equipment_id,
                'battery_cell' as equipment_type, moment::date as day, 1 as flagged_readings
                from c group by all""",
            """insert into data_quality_daily by name select 1010 as delivered_readings,
                1000 as readings, 7 as flagged_readings, 7 as gap_readings""",
        )

    def predict(self, cell: str, **more: str) -> None:
        """A prediction for a cell of 60 cycles; `more` are columns as SQL."""
        columns = {
            "model": "'fade'", "model_version": "'0123456789abcdef'", "cycle_number": "58",
            "soh": "0.9", "soh_low": "0.885", "soh_high": "0.915", "threshold_soh": "0.8",
            "end_of_life_at": "timestamptz '2024-02-01 00:00:00+00'",
            "end_of_life_low_at": "timestamptz '2024-01-20 00:00:00+00'",
            "knee_risk": "0.12", "out_of_domain": "false", "reasons": "[]",
            "is_outlived": "false", "is_chosen": "true",
        } | more  # fmt: skip
        told = ", ".join(f"{value} as {name}" for name, value in columns.items())
        self.run(f"insert into battery_predictions by name select '{cell}' as equipment_id, {told}")
        if columns["out_of_domain"] == "false":
            self.run(
                f"""update battery_lifetime set predicted_remaining_cycles = 34.4,
                    predicted_remaining_cycles_low = 20, predicted_remaining_cycles_high = 47.6,
                    predicted_by = 'fade 0123456789ab' where equipment_id = '{cell}'"""
            )

    def add_machines(self, number: int) -> None:
        quantities = [
            column for column in COLUMNS["equipment_daily"] if re.search("_(min|mean|max)_", column)
        ]
        values = ", ".join(f"{place}.5 as {name}" for place, name in enumerate(quantities))
        self.run(
            f"""insert into dim_equipment by name select 'machine_' || m as equipment_id,
                'machine' as equipment_type, timestamptz '2024-01-01 00:00:00+00' as first_seen_at,
                timestamptz '2024-01-02 00:00:00+00' as last_seen_at, 500 as readings
                from range({number}) as a(m)""",
            f"""insert into equipment_daily by name select 'machine_' || m as equipment_id,
                'machine' as equipment_type, date '2024-01-01' + d::int as day,
                0 as flagged_readings, {values} from range({number}) as a(m), range(2) as b(d)""",
        )


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse.duckdb")


class Page(HTMLParser):
    """The page as a browser takes it apart."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        # Plotly's own code is left out: megabytes that would take most of the tests' time.
        whole = path.read_text(encoding="utf-8")
        self.libraries = whole.count(get_plotlyjs())
        self.text = whole.replace(get_plotlyjs(), "")
        self.size = path.stat().st_size
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(self.text)
        found = re.search(r'id="charts">(.*?)</script>', self.text, re.DOTALL)
        self.charts: dict[str, list[dict[str, Any]]] = json.loads(found[1]) if found else {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in {"script", "style"}:
            self.words.append(data.strip())

    @property
    def body(self) -> str:
        return " ".join(filter(None, self.words))


def report(warehouse: Warehouse, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], Page]:
    """What the command prints, line by line, and the page it writes."""
    out = warehouse.path.parent / "deep" / "report.html"
    assert main([f"--warehouse=duckdb:{warehouse.path}", f"--out={out}"]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    lines = told.out.splitlines()
    assert all(len(line) <= WIDTH for line in lines[:-1]), told.out
    return lines, Page(out)


def test_one_cell(warehouse: Warehouse, capsys: pytest.CaptureFixture[str]) -> None:
    warehouse.add_cells(1, name="CS2_35")
    warehouse.run(
        "insert into stg_dead_letters by name select 'CS2_35' as equipment_id, 'negative' as rule"
    )
    lines, page = report(warehouse, capsys)
    assert lines[2].split() == [
        "CS2_35", "60/60", "0.825/1.095", "75.0", "49,", "2024-01-07", "20/30", "99.90/92.0", "8", "1",
    ]  # fmt: skip
    assert lines[3] == (
        "data quality: 1,010 readings in the source table; 10 of them removed (duplicates); 7 flagged "
        "(gap"
    )
    assert "1 dead letter (negative 1)" in lines[4]
    assert "Capacity of CS2_35, from 1.095 to 0.825 Ah in 60 cycles" in page.body
    assert "49, 2024-01-07" in page.body
    assert list(page.charts) == ["capacity", "soh", "curves", "resistance", "efficiency"]
    marked = [t for t in page.charts["capacity"][0]["data"] if t.get("meta")]
    assert [(t["marker"]["symbol"], t["x"]) for t in marked] == [
        ("x", [49.0]),
        ("diamond-open", [20.0]),
        ("diamond", [30.0]),
    ]
    assert len(page.charts["curves"][0]["data"]) == 6  # stages of life


def test_nothing_in_doubt_shows_no_box(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse.add_cells(2)
    warehouse.run(
        "insert into dim_test by name select 'k' as test_key, 'cell_0' as equipment_id, "
        "[]::varchar[] as disagreements"
    )
    lines, page = report(warehouse, capsys)
    assert "In doubt" not in page.body
    assert not [line for line in lines if "in doubt" in line]


def test_what_is_in_doubt_is_in_a_box(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse.add_cells(2)
    warehouse.run(
        """insert into dim_test by name select * from (values
            ('cell_0|a', 'cell_0', 'a', 'cell_0/a.csv', 'maccor', ['unit_guessed']),
            ('cell_1|b', 'cell_1', 'b', null, null, []::varchar[]))
            as t(test_key, equipment_id, test_id, source_file, dialect, disagreements)""",
        """update battery_cycles set test_key = if(equipment_id = 'cell_0', 'cell_0|a', 'cell_1|b'),
            disagreements = case when equipment_id = 'cell_1' and cycle_number in (3, 7)
            then ['charge_disagrees'] else [] end,
            is_valid = not (equipment_id = 'cell_1' and cycle_number in (3, 7))""",
    )
    lines, page = report(warehouse, capsys)
    assert lines[lines.index("in doubt: 2 tests of 2 cells, 2 cycles not valid"):][1:3] == [
        "  charge_disagrees: cell_1, b; cycles: 2 (3–7), 2 not valid",
        "  unit_guessed: cell_0, cell_0/a.csv; cycles: whole test",
    ]  # fmt: skip
    assert "cell_1 charge_disagrees b – 2 (3–7), 2 not valid" in page.body
    assert "cell_0 unit_guessed cell_0/a.csv maccor whole test" in page.body
    # What it means, and only of what there is.
    assert "compare charge_ah, charge_integrated_ah" in page.body
    assert "direction_disagrees" not in page.body


def test_every_disagreement_has_a_meaning() -> None:
    assert set(MEANING) == set(DISAGREEMENTS)


def test_the_figures_are_valid_plotly(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse.add_cells(14)
    warehouse.add_machines(2)
    _, page = report(warehouse, capsys)
    assert len(page.charts) == 6
    for figures in page.charts.values():
        for figure in figures:
            go.Figure(figure)  # raises on a property that Plotly does not know


def test_remaining_life_is_told_with_its_range(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse.add_cells(4)
    warehouse.run(
        "update battery_lifetime set remaining_cycles_high = null where equipment_id = 'cell_3'"
    )
    warehouse.run("update battery_lifetime set nominal_capacity_source = 'initial'")
    lines, page = report(warehouse, capsys)
    assert re.search(r"cell_2 .* 81\.2\* +~12 left \(9–18\) ", lines[4])
    assert "~12 left (≥9)" in lines[5]
    assert "so in % of initial" in lines[6]
    assert "so in % of initial" in page.body


def test_a_prediction_comes_before_the_straight_line(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse.add_cells(5)
    warehouse.predict("cell_2")
    warehouse.predict(
        "cell_4", cycle_number="44", model="'<b>late</b>'", out_of_domain="true", soh="null",
        soh_low="null", soh_high="null", knee_risk="null", end_of_life_at="null",
        end_of_life_low_at="null", reasons="['fades <faster> than any cell it learned from']",
    )  # fmt: skip
    lines, page = report(warehouse, capsys)
    assert "34 left (20–48)" in lines[4] and "~" not in lines[4]
    assert "~12 left (9–18)" in lines[5]
    assert "out of domain, so not predicted: 1 cell" in lines
    assert "    cell_4: fades <faster> than any cell it learned from" in [f"  {x}" for x in lines]
    body = page.body[page.body.index("Predictions") :]
    assert (
        "1 cell with a prediction of what is left; 1 outside of what the model was trained on"
        in body
    )
    for told in ("90.0 (88.5–91.5)", "34 left (20–48)", "2024-02-01 (2024-01-20 to open)", "12"):
        assert told in body
    assert "out of domain: fades <faster> than any cell it learned from" in body
    assert "&lt;faster&gt;" in page.text and "<b>late" not in page.text
    # In the chart: health with its interval, ends of life; none for the cell that has ended.
    squares = {
        (trace["name"], "error_x" if "error_x" in trace else "error_y"): trace
        for trace in page.charts["capacity"][0]["data"]
        if trace.get("marker", {}).get("symbol") == "square-open"
    }
    assert set(squares) == {
        ("cell_2", "error_y"), ("cell_2", "error_x"), ("cell_3", "error_x"), ("cell_4", "error_x")
    }  # fmt: skip
    ahead = squares["cell_2", "error_x"]
    assert ahead["x"] == [pytest.approx(60 + 34.4)]
    assert ahead["error_x"]["array"] == [pytest.approx(47.6 - 34.4)]
    assert ahead["error_x"]["arrayminus"] == [pytest.approx(34.4 - 20)]
    health = squares["cell_2", "error_y"]
    initial = 1.1 * (1 - 0.25 / 80)
    assert (health["x"], health["y"]) == ([58], [pytest.approx(0.9 * initial, abs=1e-4)])
    assert health["error_y"]["array"] == [pytest.approx(0.015 * initial, abs=1e-4)]
    assert ahead["y"] == [pytest.approx(0.8 * initial, abs=1e-4)]
    assert squares["cell_3", "error_x"]["y"] == [pytest.approx(0.88)]
    for figure in page.charts["capacity"]:
        go.Figure(figure)


def test_a_cell_that_outlived_its_prediction_has_none(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse.add_cells(3)
    warehouse.predict("cell_2", is_outlived="true", reasons="['few cycles']")
    warehouse.predict("cell_0", is_outlived="true")  # it has ended
    warehouse.run(
        "update battery_lifetime set predicted_by = null, predicted_remaining_cycles = null, "
        "predicted_remaining_cycles_low = null, predicted_remaining_cycles_high = null"
    )
    lines, page = report(warehouse, capsys)
    assert "~12 left (9–18)" in lines[4]
    assert "outlived its prediction; few cycles" in page.body
    box = page.body[page.body.index("Predictions") :]
    assert (box.count("outlived its prediction"), box.count("at end of life")) == (1, 1)
    assert "2024-02-01" not in page.body


def test_many_cells(warehouse: Warehouse, capsys: pytest.CaptureFixture[str]) -> None:
    warehouse.add_cells(300, cycles=120)
    lines, page = report(warehouse, capsys)
    assert lines[2].startswith("cell_0 ")
    assert lines[21].startswith("cell_19 ")
    assert re.match(r"and 280 more cells: SOH \d+\.\d–99\.\d %, 0 at end of life", lines[22])
    assert page.size < 10_000_000
    lines_drawn = [t for t in page.charts["capacity"][0]["data"] if t["mode"] == "lines"]
    assert lines_drawn[0]["name"] == "other cells"
    assert {t["name"] for t in lines_drawn[1:]} == {f"cell_{n}" for n in range(12)}
    assert len({(t["line"]["color"], t["line"]["dash"]) for t in lines_drawn[1:]}) == 12
    assert "grey: the 288 other cells" in page.body
    assert "cell_299" in page.body  # in the table


def test_machines_without_cells(warehouse: Warehouse, capsys: pytest.CaptureFixture[str]) -> None:
    warehouse.add_machines(3)
    lines, page = report(warehouse, capsys)
    assert lines[0] == "machines: 3, 1,500 readings"
    assert list(page.charts) == ["machines"]
    assert [t["name"] for t in page.charts["machines"][0]["data"]] == [
        "machine_0",
        "machine_1",
        "machine_2",
    ]


def test_many_machines_are_drawn_as_one(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse.add_machines(40)
    _, page = report(warehouse, capsys)
    assert [t["name"] for t in page.charts["machines"][0]["data"]] == ["all 40 machines"]


def test_an_empty_warehouse_says_so(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, page = report(warehouse, capsys)
    assert "holds no readings yet" in lines[0]
    assert "holds no readings yet" in page.body
    assert page.size < 20_000  # nothing to draw, so no plotting library


def test_a_cell_without_cycles_is_listed(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse.add_cells(1, name="new")
    for model in ("battery_lifetime", "battery_health", "battery_cycles", "battery_ica_stages"):
        warehouse.run(f"delete from {model}")
    lines, page = report(warehouse, capsys)
    assert lines[2].split()[:2] == ["new", "–/–"]
    assert page.charts == {}
    assert "new" in page.body


def test_names_from_the_data_are_only_text(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse.add_cells(2, name=NASTY)
    warehouse.run(
        f"insert into stg_dead_letters by name select '{NASTY}0' as equipment_id, '{NASTY}' as rule"
    )
    warehouse.run("update dim_equipment set equipment_id = equipment_id || chr(27) || '[31m'")
    warehouse.run("update battery_lifetime set equipment_id = equipment_id || chr(27) || '[31m'")
    lines, page = report(warehouse, capsys)
    assert "\x1b" not in "".join(lines)
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert "img" not in {tag for tag, _ in page.tags}
    assert NASTY not in page.text
    assert page.text.count("</script>") == 3
    assert html.escape(NASTY) in page.text
    names = {t["name"] for t in page.charts["capacity"][0]["data"]}
    assert not any("<" in name for name in names)


TURNING = 'ab\u202e"{x}"&\'<b>'


def test_no_name_turns_what_stands_around_it_or_is_escaped_twice(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse.add_cells(2, name=TURNING)
    lines, page = report(warehouse, capsys)
    assert "\u202e" not in "".join(lines)
    shown = html.escape(TURNING.replace("\u202e", "\\u202e"))
    assert f"<bdi>{shown}0</bdi></button>" in page.text
    assert f'<th scope="row"><bdi>{shown}1</bdi></th>' in page.text
    bare = page.text.replace(html.escape(f'data-cell="{TURNING}'), "")
    assert html.escape(html.escape(TURNING)) not in bare
    cells = {attributes.get("data-cell") for tag, attributes in page.tags if tag == "button"}
    traces = page.charts["capacity"][0]["data"]
    assert {trace["legendgroup"] for trace in traces} == cells == {f"{TURNING}{n}" for n in (0, 1)}
    # Plotly knows these entities, and neither that of " nor that of '.
    for trace in traces:
        assert set(re.findall("&[^;]*;", trace["name"])) <= {"&amp;", "&lt;", "&gt;", "&#123;"}
        assert html.unescape(trace["name"])[1:-1] in {
            TURNING.replace("\u202e", "\\u202e") + n for n in "01"
        }


def test_the_page_loads_nothing(warehouse: Warehouse, capsys: pytest.CaptureFixture[str]) -> None:
    warehouse.add_cells(2)
    warehouse.add_machines(1)
    _, page = report(warehouse, capsys)
    for tag, attributes in page.tags:
        assert "src" not in attributes
        assert attributes.get("href", "data:,") == "data:,"
        assert tag not in {"iframe", "object", "embed"}
        assert not any(name.startswith("on") for name in attributes)
    style = page.text[page.text.index("<style>") : page.text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy
    assert page.libraries == 1


def test_every_column_is_in_the_dbt_project() -> None:
    documented: dict[str, set[str]] = {}
    for path in (ROOT / "dbt_project" / "models").rglob("*.yml"):
        for model in yaml.safe_load(path.read_text(encoding="utf-8")).get("models", ()):
            documented[model["name"]] = {column["name"] for column in model.get("columns", ())}
    for name, columns in COLUMNS.items():
        assert set(columns) <= documented[name], name


@pytest.mark.parametrize(
    ("flags", "fix"),
    [
        (["--warehouse=bigquery://p/d"], "the report reads duckdb:PATH"),
        (["--warehouse=duckdb:"], "the report reads duckdb:PATH"),
        (["--warehouse=duckdb:{folder}/none.duckdb"], "run python -m pipeline first"),
        (
            ["--warehouse=duckdb:{folder}/no.database"],
            "give the file that python -m pipeline wrote",
        ),
        (["--warehouse=duckdb:{folder}/bare.duckdb"], "run make models"),
        (["--warehouse=duckdb:{folder}/old.duckdb"], "no battery_health.started_at"),
        (["--warehouse=duckdb:{folder}/good.duckdb", "--out={folder}"], "give the path of a file"),
        (["--wharehouse=duckdb:x"], "the flags are --warehouse=duckdb:PATH"),
    ],
)
def test_what_is_wrong_is_told_with_its_fix(
    flags: list[str], fix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "no.database").write_text("not a database" * 1000)
    duckdb.connect(str(tmp_path / "bare.duckdb")).close()
    Warehouse(tmp_path / "good.duckdb")
    Warehouse(tmp_path / "old.duckdb").run("alter table battery_health drop started_at")
    flags = [flag.format(folder=tmp_path) for flag in flags]
    assert main([f"--out={tmp_path / 'r.html'}", *flags]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert len(told.err.splitlines()) == 1
    assert flags[-1].split("=")[0] in told.err
    assert fix in told.err


def test_cycles_that_measure_no_capacity_are_named_with_the_reason(
    warehouse: Warehouse, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse.add_cells(2)
    warehouse.run(
        """insert into battery_cycles by name select 'half' as equipment_id, cycle as cycle_number,
            'charge_partial' as kind, false as is_complete, false as is_valid,
            'charged to 3.95 V, the limit is <4.2> V' as kind_reason,
            'not a full cycle' as invalid_reason from range(1, 21) as b(cycle)""",
        """insert into battery_lifetime by name select 'half' as equipment_id, 20 as cycles,
            0 as valid_cycles, 'unknown' as status""",
        """insert into dim_equipment by name select 'half' as equipment_id,
            'battery_cell' as equipment_type, timestamptz '2024-01-01 00:00:00+00' as first_seen_at,
            timestamptz '2024-01-02 00:00:00+00' as last_seen_at, 10 as readings""",
    )
    out = tmp_path / "report.html"
    assert main([f"--warehouse=duckdb:{warehouse.path}", f"--out={out}"]) == 0
    told = capsys.readouterr().out
    assert "capacity not known, for no cycle measures it:" in told
    assert "half: 20 × charge_partial, charged to 3.95 V" in told
    page = out.read_text(encoding="utf-8")
    assert "Not counted" in page and "limit is &lt;4.2&gt; V" in page
    assert "20 cycles of 1 cell measure no capacity; 1 cell has no other" in page
