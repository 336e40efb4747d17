"""The report that a person reads after a run: a table in the terminal, charts in one HTML file."""
