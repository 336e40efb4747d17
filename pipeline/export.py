"""python -m pipeline.export: writes readings in the Battery Data Format, a file per test."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import duckdb
from tqdm import tqdm

from pipeline import failures
from pipeline.errors import ConfigError
from pipeline.exporting import files, rows, selection, source
from pipeline.exporting.options import Export, export
from pipeline.shown import say

_SHOWN = 5


def _check_out(chosen: Sequence[selection.ExportedTest], what: Export) -> None:
    """Makes the folder; ConfigError where it can't be, or where a file is there already."""
    if not what.overwrite:
        there = [path for test in chosen if (path := files.path_of(test, what)).exists()]
        if there:
            raise ConfigError(
                f"--out={what.out}: {len(there):,} of the {len(chosen):,} files already exist, "
                f"such as {there[0].name}; give another folder, or --overwrite to replace them"
            )
    try:
        what.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--out={what.out}: cannot be created ({error.strerror}); give a folder you may write to"
        ) from error


def _write(
    database: duckdb.DuckDBPyConnection, chosen: Sequence[selection.ExportedTest], what: Export
) -> int:
    """Writes all files, one at a time; returns their bytes."""
    size, current, number = 0, None, -1
    total = sum(test.rows for test in chosen)
    with tqdm(total=total, unit="rows", unit_scale=True, desc="exporting", leave=False,
              disable=None if what.progress else True) as bar:  # fmt: skip
        try:
            for found, readings in rows.of(database, chosen):
                if found != number:
                    if current is not None:
                        size += current.finish()
                    current, number = files.create(chosen[found], what), found
                if current is not None:
                    current.write(readings)
                bar.update(readings.num_rows)
            if current is not None:
                size += current.finish()
        except BaseException:
            if current is not None:
                current.abandon()
            raise
    return size


def _nothing(all_tests: Sequence[selection.ExportedTest], what: Export, machines: int) -> str:
    if not all_tests:
        only = f", only {machines:,} machines" if machines else ""
        return f"nothing to export: {what.source} has no reading of a cell{only}"
    named = [f"--equipment_id={pattern}" for pattern in what.equipment_ids]
    named += [f"--test={pattern}" for pattern in what.tests]
    there = sorted({test.equipment_id for test in all_tests})
    listed = ", ".join(there[:_SHOWN]) + (", …" if len(there) > _SHOWN else "")
    return f"nothing to export: no test fits {' '.join(named)}; there are the cells {listed}"


def _export(what: Export) -> int:
    with source.opened(what) as database:
        machines = selection.machines(database)
        every = selection.found(database, what.institution)
        chosen = selection.chosen(every, what)
        if not chosen:
            _warn(_nothing(every, what, machines))
            return 1
        _check_out(chosen, what)
        size = _write(database, chosen, what)
    readings = sum(test.rows for test in chosen)
    cells = len({test.equipment_id for test in chosen})
    say(
        f"exported {readings:,} readings of {cells:,} cells: {len(chosen):,} files, "
        f"{size / 1e6:.1f} MB in {what.out}"
    )
    if machines and not what.equipment_ids:
        say(f"left out {machines:,} machines: the Battery Data Format is for cells")
    return 0


def _warn(line: str) -> None:
    say(line, error=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status.

    0: exported; 1: there was nothing, or the disk did not take it; 2: a flag or resource that can
    be fixed; 130: interrupted.
    """
    argv = sys.argv[1:] if argv is None else argv
    failures.begin(argv)
    try:
        return _export(export(argv))
    except ConfigError as error:
        _warn(f"error: {error}")
        return 2
    except (OSError, duckdb.Error) as error:
        _warn(f"error: {str(error).splitlines()[0]}; files that are complete stay")
        return 1
    except KeyboardInterrupt:
        _warn("interrupted; files that are complete stay, --overwrite replaces them")
        return 130
    except Exception as error:  # noqa: BLE001 - each ends in one line
        return failures.ended(error, argv)


if __name__ == "__main__":
    sys.exit(main())
