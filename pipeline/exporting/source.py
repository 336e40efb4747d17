"""Opens where the readings are: a DuckDB file, MotherDuck, BigQuery or a lake, as one database."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import scratch, shown
from pipeline.errors import ConfigError
from pipeline.exporting.options import Export
from pipeline.report import warehouse
from pipeline.sinks.duckdb import statements
from pipeline.sinks.duckdb.versions import with_content
from pipeline.stores import Store, store_at
from schemas.forms import arrow_schema
from schemas.reading import READING, READING_SUPERSEDED

# Memory that sorting may use before it writes to the disk.
_MEMORY = "400MB"
_ROWS = 100_000
_FOLDER = "readings"
_ARRIVAL = "reading_id, content_id, ingested_at, source_file"


@contextlib.contextmanager
def opened(export: Export) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with a table or view `readings`, which holds every reading once.

    What comes from elsewhere than DuckDB is put into a file of this machine first, so that memory
    does not depend on how much there is.

    Raises:
        ConfigError: it is not there, or can't be opened.
    """
    with scratch.folder("what is exported", "export-") as folder:
        if export.lake is not None:
            with _scratch(folder) as database:
                _from_lake(database, export.lake)
                yield database
        elif export.warehouse is not None and export.warehouse.startswith("bigquery:"):
            with _scratch(folder) as database:
                _stage(database, _from_bigquery(export.warehouse))
                _once(database, _superseded_on_bigquery(export.warehouse))
                yield database
        else:
            with _from_duckdb(export, str(folder)) as database:
                yield database


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with contextlib.closing(duckdb.connect(str(folder / "scratch.duckdb"))) as database:
        _bound(database, str(folder))
        yield database


def _bound(database: duckdb.DuckDBPyConnection, folder: str) -> None:
    database.execute("SET TimeZone = 'UTC'")
    database.execute(f"SET memory_limit = '{_MEMORY}'")
    database.execute(f"SET temp_directory = '{folder.replace(chr(39), chr(39) * 2)}'")


@contextlib.contextmanager
def _from_duckdb(export: Export, folder: str) -> Iterator[duckdb.DuckDBPyConnection]:
    uri = export.warehouse or ""
    kind, _, place = uri.partition(":")
    if kind not in ("duckdb", "md") or not place:
        raise ConfigError(
            f"--warehouse={shown.address(uri)}: can't be exported from; give duckdb:PATH, md:DATABASE or "
            "bigquery://PROJECT/DATASET, or --lake"
        )
    with warehouse.opened(uri) as database:
        if kind == "duckdb":  # MotherDuck sorts at its place
            _bound(database, folder)
        else:
            database.execute("SET TimeZone = 'UTC'")
        there = database.execute(
            "SELECT 1 FROM duckdb_columns() WHERE table_name = 'readings' "
            "AND database_name = current_database()"
        ).fetchone()
        if there is None:
            raise ConfigError(
                f"--warehouse={shown.address(uri)}: there is no table readings; run python -m pipeline first"
            )
        yield database


def _from_lake(database: duckdb.DuckDBPyConnection, uri: str) -> None:
    """Makes `readings` of the lake's files, where a reading may stand more than once."""
    store = store_at(uri)
    try:
        found = [file for file in store.files(_FOLDER) if file.path.endswith(".parquet")]
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"--lake={shown.address(uri)}: can't be listed ({error}); check the address and the credentials"
        ) from error
    if not found:
        raise ConfigError(
            f"--lake={shown.address(uri)}: there is no {_FOLDER}/…/*.parquet in it; give the lake that python -m "
            "pipeline wrote"
        )
    if "://" in uri:
        _stage(database, _batches(store, [(file.path, file.size) for file in found]))
    else:
        paths = [str(Path(uri, file.path)) for file in found]
        listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
        database.execute(
            f"CREATE VIEW readings AS SELECT * FROM read_parquet([{listed}], "  # noqa: S608
            "union_by_name = true, hive_partitioning = false)"
        )
    _once(database)


def _once(database: duckdb.DuckDBPyConnection, superseded: Iterable[pa.RecordBatch] = ()) -> None:
    """Leaves one row of each reading: of the version that counts the copy that came first.

    A lake keeps every version, and BigQuery's table is only appended to. As in the warehouse that
    version counts which arrived last, a version having arrived when its first copy did.

    Args:
        database: has `readings`.
        superseded: columns _ARRIVAL of copies that are elsewhere, and tell when a version arrived.
    """
    ((total, distinct),) = database.execute(
        "SELECT count(*), count(DISTINCT reading_id) FROM readings"
    ).fetchall()
    if total == distinct:
        return
    # Apart, because only these have to be sorted, and what older versions of the job wrote has no
    # digest of its content, or no column for it.
    columns = [name for (name, *_) in database.execute("DESCRIBE readings").fetchall()]
    known = ", ".join(name for name in columns if name in READING.names)
    _create(database, "repeated")
    database.execute(
        f"INSERT INTO repeated BY NAME SELECT {known} FROM readings WHERE reading_id IN "  # noqa: S608
        "(SELECT reading_id FROM readings GROUP BY reading_id HAVING count(*) > 1)"
    )
    _add_content(database)
    database.execute(f"CREATE TABLE arrivals AS SELECT {_ARRIVAL} FROM repeated")  # noqa: S608
    for batch in superseded:
        with statements.shown(database, "incoming", pa.Table.from_batches([batch])):
            database.execute("INSERT INTO arrivals BY NAME SELECT * FROM incoming")
    _create(database, "once")
    database.execute(
        f"INSERT INTO once BY NAME SELECT {known} FROM readings "  # noqa: S608
        "WHERE reading_id NOT IN (SELECT reading_id FROM repeated)"
    )
    database.execute(
        """INSERT INTO once BY NAME
        WITH arrived AS (
            SELECT reading_id, content_id, min(ingested_at) AS arrived,
                min(coalesce(source_file, '')) AS first_file
            FROM arrivals GROUP BY reading_id, content_id
        ), winner AS (
            SELECT reading_id, content_id FROM arrived
            SEMI JOIN repeated USING (reading_id, content_id) QUALIFY row_number() OVER (
                PARTITION BY reading_id ORDER BY arrived DESC, first_file, content_id
            ) = 1
        )
        SELECT repeated.* FROM repeated SEMI JOIN winner USING (reading_id, content_id)
        QUALIFY row_number() OVER (
            PARTITION BY reading_id ORDER BY ingested_at, source_file, streamed_at
        ) = 1"""
    )
    database.execute("DROP TABLE repeated")
    database.execute("DROP TABLE arrivals")
    database.execute(f"DROP {'VIEW' if _is_view(database) else 'TABLE'} readings")
    database.execute("ALTER TABLE once RENAME TO readings")


def _is_view(database: duckdb.DuckDBPyConnection) -> bool:
    return bool(
        database.execute(
            "SELECT 1 FROM duckdb_views() WHERE view_name = 'readings' AND NOT internal"
        ).fetchall()
    )


def _add_content(database: duckdb.DuckDBPyConnection) -> None:
    """Gives `repeated` the digests that it lacks, a bounded number of rows at a time."""
    names = ", ".join(READING.names)
    ((last,),) = database.execute(
        "SELECT max(rowid) FROM repeated WHERE content_id IS NULL"
    ).fetchall()
    for start in range(0, 0 if last is None else last + 1, _ROWS):
        which = (
            f"FROM repeated WHERE content_id IS NULL AND rowid BETWEEN {start} "
            f"AND {start + _ROWS - 1}"
        )
        rows = database.sql(f"SELECT rowid AS place, {names} {which}").to_arrow_table()
        found = with_content(rows).select(["place", "content_id"])
        with statements.shown(database, "digests", found):
            database.execute(
                "UPDATE repeated SET content_id = digests.content_id FROM digests "
                "WHERE repeated.rowid = digests.place"
            )


def _create(database: duckdb.DuckDBPyConnection, name: str) -> None:
    """An empty table of readings."""
    with statements.shown(database, "incoming", arrow_schema(READING).empty_table()):
        database.execute(f"CREATE TABLE {name} AS SELECT * FROM incoming")  # noqa: S608


def _batches(store: Store, files: list[tuple[str, int]]) -> Iterator[pa.RecordBatch]:
    for path, size in files:
        with store.open(path, size) as handle:
            yield from pq.ParquetFile(handle).iter_batches(_ROWS)


def _stage(database: duckdb.DuckDBPyConnection, batches: Iterable[pa.RecordBatch]) -> None:
    """Puts readings, with whatever of the columns they have, into a table `readings`."""
    _create(database, "readings")
    for batch in batches:
        known = [name for name in batch.schema.names if name in READING.names]
        with statements.shown(database, "incoming", pa.Table.from_batches([batch]).select(known)):
            database.execute("INSERT INTO readings BY NAME SELECT * FROM incoming")


def _from_bigquery(uri: str) -> Iterator[pa.RecordBatch]:
    return _rows_on_bigquery(uri, "*", READING.name)


def _superseded_on_bigquery(uri: str) -> Iterator[pa.RecordBatch]:
    """When versions arrived that came together with their corrections: `readings` lacks these."""
    from google.api_core.exceptions import NotFound

    try:
        yield from _rows_on_bigquery(uri, _ARRIVAL, READING_SUPERSEDED.name)
    except ConfigError as error:
        # An older version of the job makes no such table.
        if not isinstance(error.__cause__, NotFound):
            raise


def _rows_on_bigquery(uri: str, columns: str, table: str) -> Iterator[pa.RecordBatch]:
    # Not above: BigQuery's client takes a second to import, which the other sources do without.
    from google.api_core.exceptions import GoogleAPIError

    from pipeline.sinks.bigquery import Address, client

    address = Address.parse(uri)
    # The table refuses queries that name no time.
    query = (
        f"SELECT {columns} FROM `{address.table(table)}` "  # noqa: S608
        "WHERE equipment_type = 'battery_cell' AND recorded_at >= TIMESTAMP '0001-01-01 00:00:00+00'"
    )
    try:
        yield from client.rest(address).query(query).result().to_arrow_iterable()
    except GoogleAPIError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"--warehouse={shown.address(uri)}: {reason}; check the dataset and that this account may read it"
        ) from error
