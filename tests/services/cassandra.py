"""Apache Cassandra for tests: one real node from Maven Central, or a cluster that runs."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from cassandra import ProtocolVersion
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import Cluster, Session
from cassandra.policies import RoundRobinPolicy

from tests.services import maven
from tests.services.processes import Server, Service, Unavailable, free_port, java

CASSANDRA = "5.0.6"
EXTERNAL = "TEST_CASSANDRA_CONTACT_POINTS"
# The account that every new node has, and may do everything.
SUPERUSER, PASSWORD = "cassandra", "cassandra"

# What Cassandra reaches into, as the project's own jvm17-server.options have it.
_OPENED = {
    "--add-exports": (
        "java.base/jdk.internal.misc", "java.base/jdk.internal.ref", "java.base/sun.nio.ch",
        "java.base/java.lang.ref", "java.management.rmi/com.sun.jmx.remote.internal.rmi",
        "java.rmi/sun.rmi.registry", "java.rmi/sun.rmi.server", "java.sql/java.sql",
        "jdk.unsupported/sun.misc",
    ),
    "--add-opens": (
        "java.base/java.io", "java.base/java.lang", "java.base/java.lang.module",
        "java.base/java.lang.reflect", "java.base/java.net", "java.base/java.nio",
        "java.base/java.util", "java.base/java.util.concurrent",
        "java.base/java.util.concurrent.atomic", "java.base/jdk.internal.loader",
        "java.base/jdk.internal.math", "java.base/jdk.internal.module",
        "java.base/jdk.internal.ref", "java.base/jdk.internal.reflect",
        "java.base/jdk.internal.util.jar", "java.base/sun.nio.ch",
        "java.rmi/sun.rmi.transport.tcp", "jdk.management/com.sun.management.internal",
    ),
}  # fmt: skip

_LOGBACK = """\
<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d{HH:mm:ss.SSS} %-5level %logger{0} %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="out"/></root>
</configuration>
"""


class Node(Server):
    """A Cassandra of one node; as a context manager it is started, and gone at the end.

    It asks for a login, takes TLS beside plain connections, and has every write on disk before it
    answers: by its default a node that crashes may forget what it said it had in the last moment,
    which elsewhere the other replicas have. Its data outlive a restart.

    Attributes:
        host: its address.
        port: where clients reach it, the same after a restart.
        kind: "apache" or "external".
        cafile: the certificate authority to verify it by; None where it has no TLS of ours.
    """

    kind = "apache"

    def __init__(self, folder: Path, settings: Mapping[str, object] | None = None) -> None:
        """Does not start it yet.

        Args:
            folder: where its settings, log (`cassandra.log`) and data live.
            settings: further lines of cassandra.yaml, or other values of those set here.
        """
        super().__init__()
        self.folder = folder.absolute()
        self.host = "127.0.0.1"
        self.cafile: Path | None = self.folder / "certificate.pem"
        self._settings = dict(settings or {})

    @property
    def environment(self) -> dict[str, str]:
        """The variables that log the job in."""
        return {"CASSANDRA_USERNAME": SUPERUSER, "CASSANDRA_PASSWORD": PASSWORD}

    def uri(self, keyspace: str, **parameters: object) -> str:
        """What `--warehouse` is to be given for a keyspace."""
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        return f"cassandra://{self.host}:{self.port}/{keyspace}" + (f"?{query}" if query else "")

    def new_keyspace(self) -> str:
        """A name that no other test has; nothing is created."""
        return f"test_{uuid.uuid4().hex[:12]}"

    @contextmanager
    def session(self, user: str = SUPERUSER, password: str = PASSWORD) -> Iterator[Session]:
        """A session of the driver, closed at the end."""
        login = PlainTextAuthProvider(user, password)
        with _cluster(self.host, self.port, login) as cluster:
            yield cluster.connect()

    def _answers(self) -> None:
        with self.session() as session:
            session.execute("SELECT release_version FROM system.local")

    def _prepare(self) -> Service:
        jars = cassandra_jars()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_certificate()
        (self.folder / "cassandra.yaml").write_text(yaml.safe_dump(self._yaml()))
        (self.folder / "logback.xml").write_text(_LOGBACK)
        opened = [
            f"{how}={package}=ALL-UNNAMED" for how, all_ in _OPENED.items() for package in all_
        ]
        argv = [
            # It lives too short for the time that better code takes to compile.
            java(17), "-Xms384m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            f"-javaagent:{next(jars.glob('jamm-*.jar'))}",
            "-Djava.security.manager=allow", "-Djdk.attach.allowAttachSelf=true", *opened,
            "-Dcassandra-foreground=yes",
            f"-Dcassandra.config={(self.folder / 'cassandra.yaml').as_uri()}",
            f"-Dcassandra.storagedir={self.folder / 'data'}",
            f"-Dcassandra.logdir={self.folder}",
            f"-Dlogback.configurationFile={self.folder / 'logback.xml'}",
            # One node has nobody to wait for.
            "-Dcassandra.skip_wait_for_gossip_to_settle=0",
            "-Dcassandra.ring_delay_ms=0",
            "-Dcassandra.superuser_setup_delay_ms=0",
            "-Dcassandra.auth_bcrypt_gensalt_log2_rounds=4",
            "-Dcassandra.jmx.local.port=0",
            "-cp", f"{jars}/*", "org.apache.cassandra.service.CassandraDaemon",
        ]  # fmt: skip
        return Service("Apache Cassandra", argv, self.folder / "cassandra.log")

    def _yaml(self) -> dict[str, Any]:
        data = self.folder / "data"
        return {
            "cluster_name": "tests",
            "num_tokens": 1,
            "listen_address": self.host,
            "rpc_address": self.host,
            "native_transport_port": self.port,
            "storage_port": free_port(),
            "seed_provider": [
                {
                    "class_name": "org.apache.cassandra.locator.SimpleSeedProvider",
                    "parameters": [{"seeds": self.host}],
                }
            ],
            "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
            "endpoint_snitch": "SimpleSnitch",
            "data_file_directories": [str(data / "data")],
            "commitlog_directory": str(data / "commitlog"),
            "saved_caches_directory": str(data / "saved_caches"),
            "hints_directory": str(data / "hints"),
            "cdc_raw_directory": str(data / "cdc_raw"),
            "commitlog_sync": "batch",
            "disk_optimization_strategy": "ssd",
            "memtable_heap_space": "96MiB",
            "memtable_offheap_space": "96MiB",
            "auto_snapshot": False,
            "authenticator": "PasswordAuthenticator",
            "authorizer": "CassandraAuthorizer",
            # Else what a role may do is known anew only after two seconds.
            "permissions_validity": "0ms",
            "roles_validity": "0ms",
            "client_encryption_options": {
                "enabled": True,
                "optional": True,
                "require_client_auth": False,
                "ssl_context_factory": {
                    "class_name": "org.apache.cassandra.security.PEMBasedSslContextFactory"
                },
                "keystore": str(self.folder / "node.pem"),
            },
            **self._settings,
        }

    def _write_certificate(self) -> None:
        key = self.folder / "key.pem"
        done = subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
             "-keyout", str(key), "-out", str(self.cafile)],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        if done.returncode:
            raise Unavailable(f"openssl can't make a certificate: {done.stderr.strip()[-300:]}")
        assert self.cafile is not None
        (self.folder / "node.pem").write_text(key.read_text() + self.cafile.read_text())


class External(Node):
    """A Cassandra that somebody else runs, with the login of the environment, if any."""

    kind = "external"

    def __init__(self, contact_points: str) -> None:
        host, _, port = contact_points.partition(",")[0].partition(":")
        super().__init__(Path())
        self.host, self.port, self.cafile = host, int(port or 9042), None

    @property
    def environment(self) -> dict[str, str]:
        """The variables that log the job in."""
        return {name: value for name, value in os.environ.items() if name.startswith("CASSANDRA_")}

    def start(self) -> None:
        """Checks that it answers.

        Raises:
            Unavailable: it does not.
        """
        try:
            self._answers()
        except Exception as error:
            raise Unavailable(f"{EXTERNAL}={self.host}:{self.port}: {error}") from None

    def stop(self, kill: bool = False) -> None:
        """Leaves it as it is: it is not ours."""

    @contextmanager
    def session(self, user: str = "", password: str = "") -> Iterator[Session]:
        """A session of the driver, closed at the end."""
        known = self.environment
        user = user or known.get("CASSANDRA_USERNAME", "")
        login = PlainTextAuthProvider(user, password or known.get("CASSANDRA_PASSWORD", ""))
        with _cluster(self.host, self.port, login if user else None) as cluster:
            yield cluster.connect()


def _cluster(host: str, port: int, login: PlainTextAuthProvider | None) -> Cluster:
    return Cluster(
        [host], port, auth_provider=login, connect_timeout=5, monitor_reporting_enabled=False,
        protocol_version=ProtocolVersion.V4, load_balancing_policy=RoundRobinPolicy(),
    )  # fmt: skip


def cassandra_jars() -> Path:
    """The folder of Apache Cassandra's jars, downloaded the first time (66 MB).

    Raises:
        Unavailable: they are not in the cache and Maven can't get them.
    """
    return maven.jars(f"cassandra-{CASSANDRA}", [f"org.apache.cassandra:cassandra-all:{CASSANDRA}"])


def cassandra_node(folder: Path) -> Node:
    """A running Cassandra: the external one if named, else a node of our own.

    Raises:
        Unavailable: there is none; the message says why.
    """
    external = os.environ.get(EXTERNAL)
    node = External(external) if external else Node(folder)
    try:
        node.start()
    except Unavailable as reason:
        raise Unavailable(f"no Cassandra; {reason}; or set {EXTERNAL}") from None
    return node
