"""Cassandra: the address in a URI, login and TLS from the environment, sessions that end in time."""

from __future__ import annotations

import os
import re
import ssl
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cassandra import (
    ConsistencyLevel,
    DriverException,
    ProtocolVersion,
    RequestValidationException,
    Unauthorized,
)
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import (
    EXEC_PROFILE_DEFAULT,
    Cluster,
    ExecutionProfile,
    NoHostAvailable,
    Session,
)
from cassandra.connection import ConnectionException
from cassandra.policies import (
    DCAwareRoundRobinPolicy,
    ExponentialReconnectionPolicy,
    FallthroughRetryPolicy,
    TokenAwarePolicy,
)
from cassandra.protocol import ErrorMessage

from pipeline import shown
from pipeline.connect import parameters, silent, split_uri, tls, within
from pipeline.connect.cassandra_errors import said, why_silent
from pipeline.errors import ConfigError

_T = TypeVar("_T")

SCHEME = "cassandra"
FORM = "cassandra://HOST[:PORT][,HOST…]/KEYSPACE"
_DEFAULT_PORT = 9042
_KEYSPACE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,47}")
_HOST_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:,\s]+))(?::(\d{1,5}))?")

DEFAULT_CONSISTENCY = "LOCAL_QUORUM"
# ANY is not among them: what only a hint keeps, nobody can read yet, and hints expire.
CONSISTENCIES = (
    "ONE", "TWO", "THREE", "QUORUM", "ALL", "LOCAL_QUORUM", "EACH_QUORUM", "LOCAL_ONE"
)  # fmt: skip

_LOGIN = ("CASSANDRA_USERNAME", "CASSANDRA_PASSWORD")
_SSL_FILES = tls.file_names("CASSANDRA_SSL")

# Whether anybody answers is known sooner than what a schema change comes to.
CONNECT_S = 7.0
CHECK_S = 12.0
# More than a server's own time for a write: the server then tells what happened.
_REQUEST_S = 12.0

# What may be over at the next try. The server's refusals of a request are not among them.
PASSING = (DriverException, NoHostAvailable, ErrorMessage, ConnectionException, OSError)


@dataclass(frozen=True)
class CassandraAddress:
    """Cluster and keyspace that a `cassandra://` URI names.

    Attributes:
        hosts: host and port of the nodes that are asked first.
        keyspace: the keyspace.
        parameters: what stands behind the question mark.
    """

    hosts: tuple[tuple[str, int], ...]
    keyspace: str
    parameters: dict[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def parse(cls, uri: str, flag: str, known: Collection[str] = ()) -> CassandraAddress:
        """The address that `uri` names.

        Args:
            uri: `cassandra://HOST[:PORT][,HOST…]/KEYSPACE[?name=value…]`; the port defaults to
                9042.
            flag: the flag that carried it, such as `--warehouse`.
            known: the parameters that may be given, beside `consistency` and `datacenter`.

        Raises:
            ConfigError: it can't be used; the message names the flag and the fix.
        """
        hosts, keyspace, query = split_uri(uri, SCHEME, FORM, flag)
        if not _KEYSPACE.fullmatch(keyspace):
            raise ConfigError(
                f"{flag}={shown.address(uri)}: {keyspace!r} can't be a keyspace; a name has up to 48 letters, "
                "digits and _, the first a letter"
            )
        given = parameters(query, uri, (*known, "consistency", "datacenter"), flag)
        address = cls(
            tuple(_host_port(part, uri, flag) for part in hosts.split(",")), keyspace, given
        )
        if address.consistency not in CONSISTENCIES:
            raise ConfigError(
                f"{flag}={shown.address(uri)}: consistency={address.consistency} can't be written with; give one "
                f"of {', '.join(CONSISTENCIES)}"
            )
        return address

    @property
    def consistency(self) -> str:
        """The consistency level that a write must reach."""
        return self.parameters.get("consistency", DEFAULT_CONSISTENCY).upper()

    def __str__(self) -> str:
        nodes = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                         for host, port in self.hosts)  # fmt: skip
        return f"{SCHEME}://{nodes}/{self.keyspace}"


def _host_port(text: str, uri: str, flag: str) -> tuple[str, int]:
    match = _HOST_PORT.fullmatch(text.strip())
    port = int(match[3] or _DEFAULT_PORT) if match else 0
    if match is None or not 0 < port < 65_536:
        raise ConfigError(
            f"{flag}={shown.address(uri)}: {text!r} is no HOST:PORT; must look like {FORM}"
        )
    return match[1] or match[2], port


def client_settings(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The driver's keyword arguments for login and TLS; empty for a cluster that asks for none.

    Reads CASSANDRA_USERNAME and CASSANDRA_PASSWORD; CASSANDRA_SSL (true or false; true where one
    of the files is given), CASSANDRA_SSL_CAFILE (else the system's authorities),
    CASSANDRA_SSL_CERTFILE and CASSANDRA_SSL_KEYFILE (of a client certificate),
    CASSANDRA_SSL_PASSWORD (of the key) and CASSANDRA_SSL_CHECK_HOSTNAME (true or false).

    Raises:
        ConfigError: they contradict each other; the message names the variable, never its value
            where that is a secret.
    """
    settings: dict[str, Any] = {}
    user, password = (environment.get(name, "") for name in _LOGIN)
    if bool(user) != bool(password):
        given, missing = _LOGIN if user else _LOGIN[::-1]
        raise ConfigError(f"{given} is set without {missing}; set both, or neither")
    if user:
        settings["auth_provider"] = PlainTextAuthProvider(user, password)
    if tls.truth(environment, "CASSANDRA_SSL", any(environment.get(name) for name in _SSL_FILES)):
        settings["ssl_context"] = _ssl_context(environment)
    return settings


def _ssl_context(environment: Mapping[str, str]) -> ssl.SSLContext:
    files = tls.files(environment, "CASSANDRA_SSL")
    try:
        context = ssl.create_default_context(cafile=files.get("cafile"))
        if certificate := files.get("certfile"):
            # Without a password OpenSSL would ask the terminal for one.
            password = environment.get("CASSANDRA_SSL_PASSWORD", "")
            context.load_cert_chain(certificate, files.get("keyfile"), password)
    except (ssl.SSLError, OSError) as error:
        named = ", ".join(f"CASSANDRA_SSL_{kind.upper()}={path}" for kind, path in files.items())
        raise ConfigError(
            f"{named}: can't be used ({error}); give PEM files that belong together, and "
            "CASSANDRA_SSL_PASSWORD if the key has one"
        ) from error
    context.check_hostname = tls.truth(environment, "CASSANDRA_SSL_CHECK_HOSTNAME", True)
    return context


def open_session(address: CassandraAddress) -> Session:
    """A session on the cluster; `session.cluster.shutdown()` ends it and its threads.

    It finds nodes that come back by itself, and tries no request again: whoever sends a request
    knows whether that is safe, and for how long.

    Raises:
        ConfigError: the environment's login or TLS can't be used.
        NoHostAvailable: no node can be talked to; `errors` has the reason of each.
    """
    profile = ExecutionProfile(
        load_balancing_policy=TokenAwarePolicy(
            DCAwareRoundRobinPolicy(local_dc=address.parameters.get("datacenter", ""))
        ),
        retry_policy=FallthroughRetryPolicy(),
        consistency_level=ConsistencyLevel.name_to_value[address.consistency],
        request_timeout=_REQUEST_S,
    )
    cluster = Cluster(
        list(address.hosts),
        address.hosts[0][1],
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        reconnection_policy=ExponentialReconnectionPolicy(0.5, 5.0, max_attempts=None),
        connect_timeout=CONNECT_S / 2,
        control_connection_timeout=CONNECT_S / 2,
        monitor_reporting_enabled=False,
        # All that is needed, and spoken by everything since Cassandra 2.2; the driver would try
        # newer ones first, with a warning for each.
        protocol_version=ProtocolVersion.V4,
        **client_settings(),
    )
    try:
        return cluster.connect()
    except BaseException:
        cluster.shutdown()
        raise


class Connection:
    """One session a process, opened when it is first needed; for many threads."""

    def __init__(self, address: CassandraAddress) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._session: Session | None = None

    def session(self) -> Session:
        """The session; raises what `open_session` does."""
        with self._lock:
            if self._session is None:
                self._session = open_session(self._address)
            return self._session

    def renew(self) -> None:
        """Looks the nodes' names up again: all of them may have come back at other addresses."""
        with self._lock, suppress(*PASSING):
            fresh = open_session(self._address)
            self._end()
            self._session = fresh

    def close(self) -> None:
        """Ends the session, if there is one; another begins when one is asked for."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._session is not None:
            self._session.cluster.shutdown()
            self._session = None


# By process: a fork shares the sockets of its parent, not the threads that serve them.
_connections: dict[tuple[int, CassandraAddress], Connection] = {}
_making = threading.Lock()


def connection(address: CassandraAddress) -> Connection:
    """This process's connection to the cluster."""
    with _making:
        return _connections.setdefault((os.getpid(), address), Connection(address))


def ask(address: CassandraAddress, flag: str, question: Callable[[Session], _T]) -> _T:
    """What `question` finds out with a session of its own, within CHECK_S.

    Raises:
        ConfigError: nobody answers, or it refuses; the message says the fix.
    """

    def work() -> _T:
        session = open_session(address)
        try:
            return question(session)
        finally:
            session.cluster.shutdown()

    with silent("cassandra"):
        try:
            return within(CHECK_S, work)
        except Unauthorized as error:
            raise ConfigError(
                f"{flag}={address}: {said(error)}; grant it, or set CASSANDRA_USERNAME to one "
                "that may"
            ) from error
        except RequestValidationException as error:
            raise ConfigError(f"{flag}={address}: Cassandra refuses: {said(error)}") from error
        except (TimeoutError, *PASSING) as error:
            raise ConfigError(f"{flag}={address}: {why_silent(error)}") from error
