"""Stands in for dbt's `model` while sqlfluff renders the SQL: none that has been built before."""

resource_type = "sqlfluff"
