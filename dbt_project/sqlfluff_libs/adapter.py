"""Stands in for dbt's `adapter` while sqlfluff renders the SQL: a dispatched macro becomes a call of
its own name, which lints as any function does."""

SQL = {
    "float_type": "double",
    "legacy_reading_columns": "",
    "unnest_as": "unnest({0}) as unnested_{1} ({1})",
}


def dispatch(macro_name, macro_namespace=None):
    def render(*args):
        if macro_name in SQL:
            return SQL[macro_name].format(*args)
        return "{}({})".format(macro_name, ", ".join(str(arg) for arg in args))

    return render
