"""Exports through the real commands: the format's own validator, and the way back in."""

from __future__ import annotations

import datetime as dt
import uuid
from pathlib import Path

import boto3
import duckdb
import pyarrow as pa
import pytest

from pipeline.export import main
from schemas import bdf
from schemas.aliases import Alias, resolve
from schemas.reading import READING
from tests.calce import calce_dir
from tests.running import Ran, run
from tests.services import bdf as package
from tests.services.bigquery import BigQuery
from tests.services.fixtures import available, set_environment
from tests.services.s3 import S3
from tests.warehouses import Dataset, job_rows

pytestmark = pytest.mark.integration

FLEET = "simulator:?equipment=4&readings=8000&interval=30&faults=0&duplicates=0&late=0"
# Where and when a reading was read the second time is another matter.
_AGAIN = ("ingested_at", "source_file", "source_row")
_PREFERRED = "preferred"
LATER = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)
EARLIER = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    ran = run(tmp_path_factory.mktemp("fleet"), FLEET)
    assert ran.status == 0, ran.err
    return ran


def export(ran: Ran, out: Path, *flags: str) -> list[Path]:
    """The files that the command makes of the job's warehouse."""
    status = main([f"--warehouse=duckdb:{ran.warehouse}", f"--out={out}", "--no_progress", *flags])
    assert status == 0
    return data_files(out)


def data_files(out: Path) -> list[Path]:
    return sorted(path for path in out.iterdir() if path.suffix in (".csv", ".parquet"))


def differing(one: Ran, other: Ran, besides: tuple[str, ...] = ()) -> int:
    """Readings of cells that the second warehouse does not hold value for value."""
    fields = ", ".join(name for name in READING.names if name not in (*_AGAIN, *besides))
    with duckdb.connect() as database:
        database.execute("SET TimeZone = 'UTC'")
        for name, ran in (("one", one), ("other", other)):
            database.execute(f"ATTACH '{ran.warehouse}' AS {name} (READ_ONLY)")
        ((cells,), (came,), (differ,)) = (
            database.execute(query).fetchone() or (-1,)
            for query in (
                "SELECT count(*) FROM one.readings WHERE equipment_type = 'battery_cell'",
                "SELECT count(*) FROM other.readings",
                f"""SELECT count(*) FROM (SELECT {fields} FROM one.readings
                WHERE equipment_type = 'battery_cell'
                EXCEPT SELECT {fields} FROM other.readings)""",
            )
        )
    assert came == cells > 0
    return int(differ)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("labels", [_PREFERRED, "machine"])
def test_exported_readings_come_back_as_they_were(
    fleet: Ran, tmp_path: Path, kind: str, labels: str
) -> None:
    export(fleet, tmp_path / "out", f"--as={kind}", f"--labels={labels}")

    back = run(tmp_path / "back", tmp_path / "out")

    assert back.status == 0, back.err
    assert back.account()["dead_letters"] == 0
    assert differing(fleet, back) == 0


def test_so_do_those_of_a_stream_with_faults(tmp_path: Path) -> None:
    faulty = FLEET.replace("faults=0&duplicates=0&late=0", "faults=0.03&duplicates=0.02&late=0.05")
    ran = run(tmp_path / "job", faulty)
    export(ran, tmp_path / "out", "--labels=machine")

    back = run(tmp_path / "back", tmp_path / "out")

    assert back.account()["dead_letters"] == back.account()["duplicates"] == 0
    # What was late for a stream is in its place in a file.
    assert differing(ran, back, ("time_delta_s", "quality_flags")) == 0


@pytest.mark.parametrize("scope", bdf.SCOPES)
@pytest.mark.parametrize("machine", [False, True])
def test_the_reader_knows_every_column_that_an_export_can_have(scope: str, machine: bool) -> None:
    unknown = []
    for field in READING.fields:
        try:
            term = bdf.term(field.name, scope)
        except KeyError:
            continue
        header = term.name if machine else term.label
        if not field.derived and field.name != "extra" and resolve(header) != Alias(field.name):
            unknown.append(header)

    assert not unknown


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("labels", ["preferred", "machine"])
def test_the_formats_own_validator_finds_nothing(
    fleet: Ran, tmp_path: Path, kind: str, labels: str
) -> None:
    files = export(fleet, tmp_path, f"--as={kind}", f"--labels={labels}")
    assert len(files) == 3

    reports = available(package.validate, files)

    for report in reports:
        assert report["ok"]
        assert report["missing"] == report["extras"] == report["legacy_labels"] == []
        assert report["derived"]["issues"] == []
        assert report["time_stats"]["monotonic"]
    assert sum(report["n_rows"] for report in reports) == 6000


def test_the_formats_own_package_reads_the_table_and_its_metadata(
    fleet: Ran, tmp_path: Path
) -> None:
    first = export(fleet, tmp_path, "--as=parquet")[0]

    found = available(package.read, first)

    assert (found["cell"], found["test"]) == ("sim_cell_001", "sim_cell_001_t01")
    assert found["rows"] == found["extras"]["readings"] == 2000
    assert {bdf.term(name).label for name in ("recorded_at", "step_index", "temperature_c",
            "charge_capacity_ah", "discharge_energy_wh")} <= set(found["columns"])  # fmt: skip


def test_our_terms_are_those_of_the_formats_ontology() -> None:
    found = available(package.ontology)

    assert found["version"] == ["1.3.0"]
    ours = {term.iri: term for term in bdf.TERMS}
    current = {iri: term for iri, term in found["terms"].items() if not term["deprecated"]}
    assert {iri: term.label for iri, term in ours.items()} == {
        iri: term["label"] for iri, term in current.items()
    }
    for iri, term in ours.items():
        assert term.required == (current[iri]["obligation"] == ["required"])
        missing = set(current[iri]["others"]) - {label.text for label in term.labels}
        assert not missing, iri
    # What has been renamed is a spelling of what replaced it.
    spellings = {label.text for term in bdf.TERMS for label in term.labels}
    for term in found["terms"].values():
        assert {term["label"], *term["others"]} <= spellings


def test_a_lake_gives_what_the_warehouse_gives(fleet: Ran, tmp_path: Path) -> None:
    from_warehouse = export(fleet, tmp_path / "one")

    assert main([f"--lake={fleet.lake}", f"--out={tmp_path / 'two'}", "--no_progress"]) == 0

    same_rows(from_warehouse, data_files(tmp_path / "two"))


def same_rows(one: list[Path], other: list[Path]) -> None:
    """Asserts the same files with the same lines; what the counters are called may differ."""
    assert [path.name for path in one] == [path.name for path in other]
    for left, right in zip(one, other, strict=True):
        assert left.read_bytes().split(b"\n")[1:] == right.read_bytes().split(b"\n")[1:]


def test_a_lake_on_s3(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, s3.environment)
    bucket = f"export-{uuid.uuid4().hex[:8]}"
    boto3.session.Session().client("s3").create_bucket(Bucket=bucket)
    ran = run(tmp_path / "job", FLEET, f"--lake=s3://{bucket}/lake")
    assert ran.status == 0, ran.err
    from_warehouse = export(ran, tmp_path / "one")

    status = main([f"--lake=s3://{bucket}/lake", f"--out={tmp_path / 'two'}", "--no_progress"])

    assert status == 0
    same_rows(from_warehouse, data_files(tmp_path / "two"))


def test_bigquery(
    fleet: Ran, bigquery: BigQuery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Dataset(bigquery)
    dataset.load({"readings": job_rows(fleet.warehouse)["readings"]})
    set_environment(monkeypatch, bigquery.environment)
    from_warehouse = export(fleet, tmp_path / "one")

    status = main([f"--warehouse={dataset.uri}", f"--out={tmp_path / 'two'}", "--no_progress"])

    assert status == 0
    same_rows(from_warehouse, data_files(tmp_path / "two"))


def test_bigquery_where_readings_stand_more_than_once(
    fleet: Ran, bigquery: BigQuery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its table is only appended to: copies and versions stand beside what counts."""
    counts = job_rows(fleet.warehouse)["readings"]
    dataset = Dataset(bigquery)
    former = replaced(
        counts.slice(0, 50),
        voltage_v=pa.array([1.0] * 50),
        content_id=pa.array(range(50)),
        ingested_at=pa.array([EARLIER] * 50, counts.schema.field("ingested_at").type),
    )
    # These came together with what counts, and once more after it.
    late = replaced(
        former,
        reading_id=counts.column("reading_id").slice(50, 50),
        recorded_at=counts.column("recorded_at").slice(50, 50),
    )
    again = replaced(
        late, ingested_at=pa.array([LATER] * 50, counts.schema.field("ingested_at").type)
    )
    ids = pa.array([f"{row}:{row}" for row in range(50)])
    dataset.load({
        "readings": pa.concat_tables([counts, counts.slice(0, 100), former, again]),
        "readings_superseded": late.append_column("version_id", ids),
    })  # fmt: skip
    set_environment(monkeypatch, bigquery.environment)
    from_warehouse = export(fleet, tmp_path / "one")

    status = main([f"--warehouse={dataset.uri}", f"--out={tmp_path / 'two'}", "--no_progress"])

    assert status == 0
    same_rows(from_warehouse, data_files(tmp_path / "two"))


def replaced(table: pa.Table, **columns: pa.Array) -> pa.Table:
    """The table with other values in these columns."""
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), values)
    return table


@pytest.mark.calce
def test_a_real_cell(tmp_path: Path) -> None:
    ran = run(tmp_path / "job", calce_dir() / "CS2_35.zip")
    assert ran.status == 0, ran.err

    files = export(ran, tmp_path / "out", "--equipment_id=CS2_35", "--test=*@2010-08-1*")

    expected = ran.sql(
        "SELECT test_id, count(*) FROM readings WHERE test_id LIKE '%@2010-08-1%' "
        "GROUP BY 1 ORDER BY 1"
    )
    reports = available(package.validate, files)
    assert [report["n_rows"] for report in reports] == [rows for _, rows in expected]
    for report in reports:
        assert report["ok"]
        assert report["extras"] == report["derived"]["issues"] == []
