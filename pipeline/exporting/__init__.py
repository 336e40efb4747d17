"""Parts of the exporter: its flags, where readings come from, a test's columns, its files."""
