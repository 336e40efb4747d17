"""Stands in for dbt's `adapter` while sqlfluff renders the SQL: a dispatched macro becomes a call of
its own name, which lints as any function does."""

SQL = {
    "clusters": "",
    "current_version_of": "select * from {0}",
    "float_type": "double",
    "in_order_of": "order by {0}",
    "is_unchecked": "true",
    "in_every_partition": "",
    "legacy_reading_columns": "",
    "partitions": "",
    "replacement": "",
    "strings_type": "varchar[]",
    "text_literal": "'{0}'",
    "timestamp_type": "timestamptz",
    "unnest_as": "unnest({0}) as unnested_{1} ({1})",
    "with_rest_of_days": "select * from {0}",
}


def get_columns_in_relation(relation):
    return []


def dispatch(macro_name, macro_namespace=None):
    def render(*args):
        if macro_name in SQL:
            return SQL[macro_name].format(*args)
        return "{}({})".format(macro_name, ", ".join(str(arg) for arg in args))

    return render
