"""Kafka: the address in a URI, security from the environment, topics checked and created."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from kafka import KafkaAdminClient, KafkaProducer, errors
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.partitioner.default import DefaultPartitioner

from pipeline import shown
from pipeline.connect import CHECK_S, parameters, secrets, silent, split_uri, tls, within
from pipeline.connect.kafka_probe import CHECK_LOGIN, MOST_PROBED, PROBE_S, why_silent
from pipeline.errors import ConfigError

_T = TypeVar("_T")

SCHEME = "kafka"
_FORM = "kafka://HOST:PORT[,HOST:PORT…]/TOPIC"
_DEFAULT_PORT = 9092
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:,]+)(?::(\d{1,5}))?")

_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_POLICY = "cleanup.policy"
# A member that has died belongs to its group for a while; see sources.kafka.broker.
GROUP_WAIT_S = 12.0
# Whether messages of transactions that are open or aborted are read; the first is the default.
COMMITTED = "read_committed"
ISOLATIONS = (COMMITTED, "read_uncommitted")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_SASL = ("KAFKA_SASL_MECHANISM", "KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD")
_SSL = (*tls.file_names("KAFKA_SSL"), "KAFKA_SSL_PASSWORD", "KAFKA_SSL_CHECK_HOSTNAME")

# Outlives a broker's restart: until then the producer keeps what it holds and tries again.
DELIVERY_S = 300
# The default goes up to 30 s, for which a broker that is back would be waited for.
_RECONNECT_MS = 1000
# Whether a message is too large is the broker's to say.
_MOST_BYTES = 64 * 1024 * 1024
_MOST_KEYS = 100_000
_REFUSED_LOGIN = (
    errors.SaslAuthenticationFailedError,
    errors.UnsupportedSaslMechanismError,
    errors.IllegalSaslStateError,
)


@dataclass(frozen=True)
class KafkaAddress:
    """Brokers and topic that a `kafka://` URI names.

    Attributes:
        bootstrap: `host:port` of each broker named.
        topic: the topic.
        parameters: what stands behind the question mark.
    """

    bootstrap: tuple[str, ...]
    topic: str
    parameters: dict[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def parse(cls, uri: str, flag: str, known: Collection[str] = ()) -> KafkaAddress:
        """The address that `uri` names.

        Args:
            uri: `kafka://HOST:PORT[,HOST:PORT…]/TOPIC[?name=value…]`; the port defaults to 9092.
            flag: the flag that carried it, such as `--source`.
            known: the parameters that may be given, beside `secret`.

        Raises:
            ConfigError: it can't be used; the message names the flag and the fix.
        """
        hosts, topic, query = split_uri(uri, SCHEME, _FORM, flag)
        if not _TOPIC.fullmatch(topic) or topic in (".", ".."):
            raise ConfigError(
                f"{flag}={shown.address(uri)}: {topic!r} can't be a topic; a topic's name has up to 249 letters, "
                "digits, dots, dashes and underscores"
            )
        bootstrap = tuple(_host_port(part, uri, flag) for part in hosts.split(","))
        return cls(bootstrap, topic, parameters(query, uri, (*known, secrets.PARAMETER), flag))

    @property
    def servers(self) -> list[str]:
        """The brokers as kafka-python's `bootstrap_servers`."""
        return list(self.bootstrap)

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment that `client_settings` reads, with what the parameter `secret` holds.

        Raises:
            ConfigError: the secret can't be used.
        """
        return secrets.environment(self.parameters.get(secrets.PARAMETER), str(self))

    def __str__(self) -> str:
        return f"{SCHEME}://{','.join(self.bootstrap)}/{self.topic}"


def _host_port(text: str, uri: str, flag: str) -> str:
    match = _HOST_PORT.fullmatch(text.strip())
    port = int(match[2] or _DEFAULT_PORT) if match else 0
    if match is None or not 0 < port < 65_536:
        raise ConfigError(
            f"{flag}={shown.address(uri)}: {text!r} is no HOST:PORT; must look like {_FORM}"
        )
    return f"{match[1]}:{port}"


def client_settings(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """kafka-python's keyword arguments for security; empty for a broker that asks for none.

    Reads KAFKA_SECURITY_PROTOCOL (PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL),
    KAFKA_SASL_MECHANISM (default PLAIN), KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD,
    KAFKA_SSL_CAFILE, KAFKA_SSL_CERTFILE, KAFKA_SSL_KEYFILE, KAFKA_SSL_PASSWORD (of the key) and
    KAFKA_SSL_CHECK_HOSTNAME (true or false).

    Raises:
        ConfigError: they contradict each other; the message names the variable, never its value
            where that is a secret.
    """
    protocol = environment.get("KAFKA_SECURITY_PROTOCOL", "").upper() or "PLAINTEXT"
    if protocol not in _PROTOCOLS:
        raise ConfigError(
            f"KAFKA_SECURITY_PROTOCOL={protocol}: no such protocol; give one of "
            f"{', '.join(_PROTOCOLS)}"
        )
    _refuse_unused(environment, _SASL, protocol, protocol.startswith("SASL_"), "SASL_SSL")
    _refuse_unused(environment, _SSL, protocol, protocol.endswith("SSL"), "SSL or SASL_SSL")
    if protocol == "PLAINTEXT":
        return {}
    settings: dict[str, Any] = {"security_protocol": protocol}
    if protocol.startswith("SASL_"):
        settings |= _sasl_settings(environment, protocol)
    if protocol.endswith("SSL"):
        settings |= _ssl_settings(environment)
    return settings


# kafka-python's names of settings in librdkafka's words.
_NATIVE = {
    "security_protocol": "security.protocol",
    "sasl_mechanism": "sasl.mechanism",
    "sasl_plain_username": "sasl.username",
    "sasl_plain_password": "sasl.password",
    "ssl_cafile": "ssl.ca.location",
    "ssl_certfile": "ssl.certificate.location",
    "ssl_keyfile": "ssl.key.location",
    "ssl_password": "ssl.key.password",
}


def native_settings(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The same for librdkafka; see `client_settings`."""
    known = client_settings(environment)
    settings = {name: known[of] for of, name in _NATIVE.items() if of in known}
    if "ssl_check_hostname" in known:
        checked = "https" if known["ssl_check_hostname"] else "none"
        settings["ssl.endpoint.identification.algorithm"] = checked
        # The machine's own, wherever it keeps them; and a certificate's file may hold its key.
        settings.setdefault("ssl.ca.location", "probe")
        if "ssl_certfile" in known:
            settings.setdefault("ssl.key.location", known["ssl_certfile"])
    return settings


def _refuse_unused(
    environment: Mapping[str, str], names: Collection[str], protocol: str, used: bool, fix: str
) -> None:
    for name in names:
        if environment.get(name) and not used:
            raise ConfigError(
                f"{name} is set, but KAFKA_SECURITY_PROTOCOL={protocol} does not use it; set "
                f"KAFKA_SECURITY_PROTOCOL to {fix}, or unset {name}"
            )


def _sasl_settings(environment: Mapping[str, str], protocol: str) -> dict[str, Any]:
    mechanism = environment.get("KAFKA_SASL_MECHANISM", "").upper() or "PLAIN"
    if mechanism not in _MECHANISMS:
        raise ConfigError(
            f"KAFKA_SASL_MECHANISM={mechanism}: not supported; give one of {', '.join(_MECHANISMS)}"
        )
    for name in ("KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD"):
        if not environment.get(name):
            raise ConfigError(f"{name} is not set; KAFKA_SECURITY_PROTOCOL={protocol} needs it")
    return {
        "sasl_mechanism": mechanism,
        "sasl_plain_username": environment["KAFKA_SASL_USERNAME"],
        "sasl_plain_password": environment["KAFKA_SASL_PASSWORD"],
    }


def _ssl_settings(environment: Mapping[str, str]) -> dict[str, Any]:
    found = tls.files(environment, "KAFKA_SSL")
    settings: dict[str, Any] = {f"ssl_{kind}": path for kind, path in found.items()}
    if password := environment.get("KAFKA_SSL_PASSWORD"):
        settings["ssl_password"] = password
    settings["ssl_check_hostname"] = tls.truth(environment, "KAFKA_SSL_CHECK_HOSTNAME", True)
    return settings


class _ByKey(DefaultPartitioner):
    """Kafka's own choice of a key's partition, remembered: working it out in Python is slow."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, int], int] = {}

    def partition(
        self,
        topic: str,
        key: Any,
        serialized_key: bytes | None,
        value: Any,
        sent: Any,
        cluster: Any,
    ) -> int:
        """The partition of one message."""
        if serialized_key is None:
            return int(super().partition(topic, key, None, value, sent, cluster))
        place = (serialized_key, len(cluster.partitions_for_topic(topic) or ()))
        found = self._known.get(place)
        if found is None:
            found = int(super().partition(topic, key, serialized_key, value, sent, cluster))
            if len(self._known) >= _MOST_KEYS:
                self._known.clear()
            self._known[place] = found
        return found


def producer(address: KafkaAddress, **settings: Any) -> KafkaProducer:
    """A producer that loses nothing: idempotent, acknowledged by all replicas, patient.

    A message it could not deliver within DELIVERY_S fails its future. Large compressed batches
    make it fast; what it holds unsent is bounded by whoever waits for its futures.
    """
    chosen = {
        "acks": "all",
        "enable_idempotence": True,
        "bootstrap_timeout_ms": DELIVERY_S * 1000,
        "delivery_timeout_ms": DELIVERY_S * 1000,
        "max_block_ms": DELIVERY_S * 1000,
        "reconnect_backoff_max_ms": _RECONNECT_MS,
        "linger_ms": 20,
        "batch_size": 512 * 1024,
        "compression_type": "lz4",
        "allow_auto_create_topics": False,
        "metrics_enabled": False,
        "partitioner": _ByKey(),
        "max_request_size": _MOST_BYTES,
        **client_settings(address.environment),
        **settings,
    }
    return KafkaProducer(bootstrap_servers=address.servers, **chosen)


def check_topic(
    address: KafkaAddress, flag: str, operation: Literal["READ", "WRITE"] | None = None
) -> int:
    """The number of the topic's partitions, or within about 10 s what is wrong.

    Args:
        address: the topic.
        flag: the flag that carried the address.
        operation: what the account must be allowed to do with the topic.

    Raises:
        ConfigError: no broker answers, it refuses the credentials, or the topic is missing or
            must not be used.
    """
    topics = _ask(address, flag, lambda admin: admin.describe_topics([address.topic]))
    found = next((topic for topic in topics if topic["name"] == address.topic), None)
    if found is None or found["error_code"] == errors.UnknownTopicOrPartitionError.errno:
        raise ConfigError(
            f"{flag}={address}: there is no topic {address.topic}; create it, or check its name"
            + (" (--create_topic creates it)" if flag == "--to" else "")
        )
    code = found["error_code"]
    # A broker without access control names no operations.
    allowed = {getattr(name, "name", name) for name in found.get("authorized_operations") or ()}
    if code == errors.TopicAuthorizationFailedError.errno or (
        operation and allowed and operation not in allowed
    ):
        raise ConfigError(
            f"{flag}={address}: this account may not {(operation or 'describe').lower()} the "
            "topic; grant it (an ACL on the broker), or set KAFKA_SASL_USERNAME to one that may"
        )
    if code:
        raise ConfigError(f"{flag}={address}: {_reason(errors.for_code(code))}; check the topic")
    return len(found["partitions"])


def is_compacted(address: KafkaAddress, flag: str) -> bool | None:
    """Whether the topic's cleanup.policy has compact; None where that can't be told."""
    asked = ConfigResource(ConfigResourceType.TOPIC, address.topic, [_POLICY])
    try:
        found = _ask(address, flag, lambda admin: admin.describe_configs([asked], False, "all"))
    except (ConfigError, errors.KafkaError):
        return None
    told = found.get("topic", {}).get(address.topic, {}).get(_POLICY)
    return None if told is None else "compact" in str(told["value"])


def check_group(address: KafkaAddress, group: str, flag: str) -> None:
    """Finds out whether another job reads with the group, which would refuse this one's offsets.

    One that has just ended is waited for.

    Raises:
        ConfigError: it does.
    """
    until = time.monotonic() + GROUP_WAIT_S
    while True:
        try:
            found = _ask(address, flag, lambda admin: admin.describe_groups([group]))
        except (ConfigError, errors.KafkaError):
            return  # not ours to look at; committing tells
        members = len(found[group].get("members") or ())
        if not members:
            return
        if time.monotonic() > until:
            raise ConfigError(
                f"{flag}={address}: the group {group} has {members} member(s), so another job "
                "reads with it and this one could not commit its offsets; stop that one, or give "
                "this one a group of its own (?group=NAME)"
            )
        time.sleep(1.0)


def has_offsets(address: KafkaAddress, group: str, flag: str) -> bool:
    """Whether the group has committed an offset of the topic; False where that can't be asked."""
    try:
        found = _ask(address, flag, lambda admin: admin.list_group_offsets({group: None}))
    except (ConfigError, errors.KafkaError):
        return False
    offsets = found.get(group, {})
    return any(part.topic == address.topic and at.offset >= 0 for part, at in offsets.items())


def create_topic(address: KafkaAddress, partitions: int, replication: int, flag: str) -> bool:
    """Creates the topic unless it is there; returns whether it had to.

    Args:
        address: the topic.
        partitions: how many; -1 for the broker's default.
        replication: copies of each; -1 for the broker's default.
        flag: the flag that carried the address.

    Raises:
        ConfigError: no broker answers, or it refuses.
    """
    wanted = {address.topic: {"num_partitions": partitions, "replication_factor": replication}}
    try:
        _ask(
            address,
            flag,
            lambda admin: admin.create_topics(wanted, timeout_ms=5000, wait_for_metadata=True),
        )
    except errors.TopicAlreadyExistsError:
        return False
    except errors.AuthorizationError as error:
        raise ConfigError(
            f"{flag}={address}: this account may not create the topic ({_reason(error)}); have "
            "it created, or grant it"
        ) from error
    except errors.KafkaError as error:
        raise ConfigError(
            f"{flag}={address}: the topic can't be created ({_reason(error)})"
        ) from error
    return True


def _reason(error: Exception | type[Exception]) -> str:
    """What a broker's refusal is called; its text holds the whole request and answer."""
    return str(getattr(error, "message", None) or error)


def _ask(address: KafkaAddress, flag: str, question: Callable[[KafkaAdminClient], _T]) -> _T:
    """What a broker answers; ConfigError within about CHECK_S + 2 s if none does."""
    settings = client_settings(address.environment)
    protocol = settings.get("security_protocol", "PLAINTEXT")
    patience = CHECK_S - PROBE_S * min(len(address.bootstrap), MOST_PROBED)
    ends = time.monotonic() + patience

    def connect() -> KafkaAdminClient:
        return KafkaAdminClient(
            bootstrap_servers=address.servers,
            bootstrap_timeout_ms=int(patience * 1000),
            request_timeout_ms=int(patience * 1000),
            reconnect_backoff_max_ms=_RECONNECT_MS,
            **settings,
        )

    with silent("kafka"):
        try:
            admin = within(patience + 1, connect)
        except errors.KafkaConfigurationError as error:
            raise ConfigError(f"{flag}={address}: {error}") from error
        except _REFUSED_LOGIN as error:
            raise ConfigError(
                f"{flag}={address}: the broker refuses the login ({_reason(error)}); {CHECK_LOGIN}"
            ) from error
        except (errors.KafkaError, OSError) as error:
            raise ConfigError(
                f"{flag}={address}: {why_silent(address.bootstrap, protocol)}"
            ) from error
        try:
            return within(max(ends - time.monotonic(), 2.0), lambda: question(admin))
        except (TimeoutError, errors.KafkaConnectionError, errors.KafkaTimeoutError) as error:
            raise ConfigError(
                f"{flag}={address}: a broker answers at {', '.join(address.bootstrap)}, but none "
                "at the address it advertises; check the broker's advertised.listeners and the "
                "network between here and there"
            ) from error
        finally:
            with suppress(Exception):
                within(1.0, admin.close)
