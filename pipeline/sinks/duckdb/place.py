"""What a place for DuckDB's tables offers, be it a file or a database at MotherDuck."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

import duckdb

_T = TypeVar("_T")

# What every connection that writes is opened with.
SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": "256MB",
    "preserve_insertion_order": "true",
}


class Writer(ABC):
    """A process's way into a place: one connection, at which its threads take turns."""

    @abstractmethod
    def write(self, work: Callable[[duckdb.DuckDBPyConnection], _T]) -> _T:
        """Does `work` within one transaction, again if it must be; returns what it returns."""

    def check(self) -> None:  # noqa: B027 - a server tells by itself
        """Finds out whether what was written is still there; raises WarehouseFailed."""

    def hurry(self) -> None:  # noqa: B027 - not all wait for long
        """The job is over: what still waits gives up."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of the connection; the next write opens another."""


class Place(ABC):
    """Where tables are; it travels to the workers, and shows nothing secret."""

    @property
    @abstractmethod
    def uri(self) -> str:
        """As `--warehouse` names it."""

    @abstractmethod
    def connected(self, create: bool) -> AbstractContextManager[duckdb.DuckDBPyConnection | None]:
        """A connection of its own, closed at the end.

        Args:
            create: whether to make the file or database; without it, it is None where there is
                none yet but could be.

        Raises:
            ConfigError: it can't be had; also for what goes wrong while it is used.
        """

    @abstractmethod
    def writer(self) -> Writer:
        """This process's one writer to this place, since DoFns come and go."""
