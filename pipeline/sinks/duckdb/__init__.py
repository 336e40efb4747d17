"""DuckDB as the warehouse: a file, written by one worker at a time, or a database at MotherDuck."""

from pipeline.sinks.duckdb.file import Busy, Warehouse, connection, warehouse
from pipeline.sinks.duckdb.rows import insert_new
from pipeline.sinks.duckdb.sink import DuckDBSink, MotherDuckSink

__all__ = [
    "Busy",
    "DuckDBSink",
    "MotherDuckSink",
    "Warehouse",
    "connection",
    "insert_new",
    "warehouse",
]
