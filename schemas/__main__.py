"""python -m schemas: prints any form of the job's tables, for files that must be written down."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from schemas import forms
from schemas.reading import TABLES

FORMS = ("arrow", "bigquery", "cassandra", "dbt", "duckdb", "json_schema")


def render(form: str, name: str) -> str:
    """The text of one form of one table; `dbt` is the whole sources file, whatever the table."""
    table = next(table for table in TABLES if table.name == name)
    match form:
        case "arrow":
            return str(forms.arrow_schema(table).to_string(show_field_metadata=False))
        case "bigquery":
            return json.dumps(forms.bigquery_schema(table), indent=2)
        case "cassandra":
            return forms.cassandra_ddl(table) + ";"
        case "dbt":
            return forms.dbt_sources(TABLES).rstrip("\n")
        case "duckdb":
            return forms.duckdb_ddl(table) + ";"
    return json.dumps(forms.json_schema(table), indent=2)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m schemas", description=__doc__)
    parser.add_argument("form", choices=FORMS)
    parser.add_argument(
        "table", nargs="?", default="readings", choices=[table.name for table in TABLES]
    )
    flags = parser.parse_args(argv)
    print(render(flags.form, flags.table))  # noqa: T201 - the command's output
    return 0


if __name__ == "__main__":
    sys.exit(main())
