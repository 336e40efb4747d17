"""Turns what a binary cycler file holds, one table a test, into the batches of its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow as pa

from pipeline.errors import JobFailed
from pipeline.sources.formats.content import Content, Outputs, Settings
from pipeline.sources.formats.meter import Refused
from pipeline.sources.formats.tables import one_table
from transforms.interpret.interpretation import Head

Tables = list[tuple[Head, pa.Table]]


def read(
    content: Content, settings: Settings, tables: Callable[[bytes], Tables], what: str
) -> Outputs:
    """The rows of a file, one batch a test: its counters and its start are the test's own.

    Where several tests lie in one file, rows are numbered on over all of them.

    Args:
        content: the file.
        settings: how files are read.
        tables: the format's reader.
        what: the format, for messages.
    """
    with refusals(what):
        found = tables(content.read_all())
    row = 1
    for head, table in found:
        yield from one_table(content, settings, table, head, row)
        row += table.num_rows
    if row == 1:
        raise Refused(
            "no_rows", f"the {what} file holds no readings; remove it, or export it again"
        )


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """Makes whatever a parser trips over a refusal: the bytes are in memory already."""
    try:
        yield
    except (Refused, MemoryError, JobFailed):
        raise
    except BaseException as error:
        # A panic of a Rust library is no Exception, but only says that the file is broken.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise Refused(
            "corrupt_file",
            f"the {what} file cannot be read: {said}; copy it again, or export it as text or xlsx",
        ) from error
