"""A database at MotherDuck: many writers at once, a token from the environment, no file."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import duckdb

from pipeline.connect import parameters, secrets, within
from pipeline.errors import ConfigError, WarehouseFailed
from pipeline.shown import address
from pipeline.sinks.base.waiting import Notice
from pipeline.sinks.duckdb.place import SETTINGS, Place, Writer
from pipeline.sinks.duckdb.statements import run

_T = TypeVar("_T")

# Where the token is, the first that is set; MotherDuck's own tools know both.
TOKENS = ("MOTHERDUCK_TOKEN", "motherduck_token")

_FORM = "md:DATABASE"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
# Includes downloading the extension, once for each machine.
_CONNECT_S = 12.0
# How long MotherDuck may be away, or other writers in the way, before the job gives up.
_PATIENCE_S = 60.0
_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0

# Errors that the same rows would meet again; others may be the network's or another writer's.
_LASTING = (
    duckdb.ProgrammingError, duckdb.DataError, duckdb.IntegrityError, duckdb.NotSupportedError
)  # fmt: skip
# What to do about an error, by words of its message.
_FIXES = {
    r"HTTP 404": (
        f"there is no motherduck extension for DuckDB {duckdb.__version__}; MotherDuck's "
        "documentation has the versions it supports"
    ),
    r"extension": (
        "DuckDB loads its motherduck extension from extensions.duckdb.org: let this machine reach "
        "it, or run INSTALL motherduck with the same DuckDB where there is a network and copy "
        "~/.duckdb/extensions"
    ),
    r"authenticat|token|jwt|unauthorized|permission": (
        f"check that {TOKENS[0]} holds a read/write token of this account, or make a new one in "
        "MotherDuck's settings"
    ),
    r"^transaction": "another job writes the same readings; let one of the two finish first",
    r"version.{0,30}support|upgrade|client version": (
        f"this is DuckDB {duckdb.__version__}; MotherDuck's documentation has the versions it "
        "supports"
    ),
}


@dataclass(frozen=True)
class MotherDuck(Place):
    """A database of the account whose token the environment holds.

    Attributes:
        database: its name.
        secret: id of the secret with a line `MOTHERDUCK_TOKEN=…`; None for the environment.
    """

    database: str
    secret: str | None = None

    @classmethod
    def parse(cls, uri: str) -> MotherDuck:
        """The database that `md:DATABASE` or `md:DATABASE?secret=ID` names.

        Raises:
            ConfigError: it is not of that form. What may be a token is not repeated.
        """
        name, _, query = uri.partition(":")[2].partition("?")
        if "token" in query.lower():
            raise ConfigError(
                f"--warehouse={address(f'md:{name}')}: a token must not stand in the address, where others can "
                f"see it; export it as {TOKENS[0]}"
            )
        given = parameters(query, f"md:{name}", (secrets.PARAMETER,), "--warehouse")
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"--warehouse={address(f'md:{name}')}: must look like {_FORM}; the name of a database begins "
                "with a letter and has letters, digits, _ and - only"
            )
        return cls(name, given.get(secrets.PARAMETER))

    @property
    def uri(self) -> str:
        """`md:DATABASE`."""
        return f"md:{self.database}"

    def dbt_variables(self) -> dict[str, str]:
        """The variables that point dbt's profile at the database.

        Raises:
            ConfigError: it can't be had, or there was no run.
        """
        with self.there() as database:
            if not run(database, "SELECT 1 FROM duckdb_tables() WHERE table_name = 'readings' "
                       "AND database_name = current_database()"):  # fmt: skip
                raise ConfigError(
                    f"--warehouse={self.uri}: there is no table readings; run python -m pipeline "
                    "first"
                )
        target = {"DBT_TARGET": "motherduck", "MOTHERDUCK_DATABASE": self.database}
        return target | dict.fromkeys(TOKENS, self.token())

    def token(self) -> str:
        """MotherDuck's token.

        Raises:
            ConfigError: there is none. Without one DuckDB would open a browser and wait.
        """
        variables = secrets.environment(self.secret, f"--warehouse={self.uri}")
        for name in TOKENS:
            if variables.get(name):
                return variables[name]
        raise ConfigError(
            f"--warehouse={self.uri}: {' and '.join(TOKENS)} are not set; make an access token in "
            f"MotherDuck's settings and export it as {TOKENS[0]}"
        )

    @contextlib.contextmanager
    def connected(self, create: bool) -> Iterator[duckdb.DuckDBPyConnection | None]:
        """The database, in use; see `Place`."""
        try:
            database = self.opened(create)
            try:
                yield database
            finally:
                if database is not None:
                    database.close()
        except (duckdb.Error, TimeoutError) as error:
            raise ConfigError(self.told(error)) from error

    @contextlib.contextmanager
    def there(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The database of an earlier run, for the models and the report.

        Raises:
            ConfigError: it can't be had, or there was no run.
        """
        with self.connected(create=False) as database:
            if database is None:
                raise ConfigError(
                    f"--warehouse={self.uri}: there is no such database; run python -m pipeline "
                    "first"
                )
            yield database

    def opened(self, create: bool = False) -> duckdb.DuckDBPyConnection | None:
        """A connection that has the database in use; None if there is no such database.

        Raises:
            ConfigError: there is no token.
            duckdb.Error, TimeoutError: it can't be had within some seconds.
        """
        token = self.token()
        return within(_CONNECT_S, lambda: self._connect(token, create))

    def _connect(self, token: str, create: bool) -> duckdb.DuckDBPyConnection | None:
        database = _session(token)
        try:
            if create:
                _create(database, self.database)
            elif not _exists(database, self.database):
                database.close()
                return None
            run(database, f'USE "{self.database}"')
            run(database, "SET TimeZone = 'UTC'")
        except BaseException:
            database.close()
            raise
        return database

    def writer(self) -> Remote:
        """This process's writer of the database."""
        with _making:
            return _remotes.setdefault(self, Remote(self))

    def told(self, error: Exception) -> str:
        """What went wrong in one line, and what to do about it; without the token."""
        said = str(error).strip().partition("\n")[0]
        with contextlib.suppress(ConfigError):
            said = said.replace(self.token(), "(the token)")
        fix = next(
            (fix for words, fix in _FIXES.items() if re.search(words, said, re.IGNORECASE)),
            "check the network to api.motherduck.com and that the account may use the database",
        )
        return f"--warehouse={self.uri}: {said}; {fix}"


def _session(token: str) -> duckdb.DuckDBPyConnection:
    """A session of the account, with all its databases attached.

    Always with the same settings: MotherDuck lets a process have no other session beside.
    """
    return duckdb.connect("md:", config=SETTINGS | {"motherduck_token": token})


def _create(database: duckdb.DuckDBPyConnection, name: str) -> None:
    run(database, f'CREATE DATABASE IF NOT EXISTS "{name}"')


def _exists(database: duckdb.DuckDBPyConnection, name: str) -> bool:
    found = run(
        database, "SELECT 1 FROM duckdb_databases() WHERE lower(database_name) = lower($1)", [name]
    )
    return bool(found)


class Remote(Writer):
    """The process's connection to a database; opened at the first write, kept until the end."""

    def __init__(self, place: MotherDuck) -> None:
        self._place = place
        self._turn = threading.Lock()
        self._database: duckdb.DuckDBPyConnection | None = None

    def write(self, work: Callable[[duckdb.DuckDBPyConnection], _T]) -> _T:
        """Does `work` within one transaction, again after an outage or another writer's conflict.

        So `work` must change nothing where it was committed already: of a transaction whose end
        the network cut off, nobody knows.

        Raises:
            WarehouseFailed: it can't be done, or could not be for a minute.
        """
        give_up = time.monotonic() + _PATIENCE_S
        pause_s = _PAUSE_S
        with self._turn:
            notice, began = Notice(f"--warehouse={self._place.uri}"), time.monotonic()
            while True:
                try:
                    result = self._once(work)
                    notice.over(time.monotonic() - began)
                    return result
                except ConfigError as error:
                    raise WarehouseFailed(str(error)) from error
                except (duckdb.Error, TimeoutError) as error:
                    if isinstance(error, _LASTING) or time.monotonic() > give_up:
                        raise WarehouseFailed(self._place.told(error)) from error
                    said = self._place.told(error).partition(": ")[2]
                    until = f"trying again for up to {_PATIENCE_S:.0f} s"
                    notice.still(time.monotonic() - began, said, until)
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def close(self) -> None:
        """Ends the connection."""
        with self._turn:
            self._close()

    def _once(self, work: Callable[[duckdb.DuckDBPyConnection], _T]) -> _T:
        self._database = self._database or self._place.opened()
        if self._database is None:
            raise WarehouseFailed(
                f"--warehouse={self._place.uri}: the database is not there any more; run the job "
                "again: it makes it, and goes on where it was"
            )
        try:
            self._database.begin()
            result = work(self._database)
            self._database.commit()
        except BaseException:
            self._undo()
            raise
        return result

    def _undo(self) -> None:
        """Rolls back; a connection that can't even do that is given up."""
        assert self._database is not None
        try:
            self._database.rollback()
        except duckdb.Error:
            self._close()

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


# One for each database and process: DoFns come and go.
_remotes: dict[MotherDuck, Remote] = {}
_making = threading.Lock()
