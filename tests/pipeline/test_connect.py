"""Addresses and credentials of brokers: what is wrong is told with the flag or variable and the fix."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.connect import kafka, within
from pipeline.connect import pubsub as pubsub_connect
from pipeline.connect.kafka import KafkaAddress, client_settings
from pipeline.connect.pubsub import PubSubAddress
from pipeline.errors import ConfigError
from pipeline.shown import address

# An error has to be there before this.
MOST_S = 15.0


def test_an_address_names_brokers_topic_and_parameters() -> None:
    uri = "kafka://a.example:9093,b.example,[::1]:19092/battery.readings-1?group=x&start=2024-05-01T10%3A00"
    address = KafkaAddress.parse(uri, "--source", ("group", "start"))
    assert address.bootstrap == ("a.example:9093", "b.example:9092", "[::1]:19092")
    assert address.topic == "battery.readings-1"
    assert address.parameters == {"group": "x", "start": "2024-05-01T10:00"}
    assert str(address) == "kafka://a.example:9093,b.example:9092,[::1]:19092/battery.readings-1"
    assert hash(address) == hash(KafkaAddress(address.bootstrap, address.topic))


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("kafka:/h/t", "must look like kafka://HOST:PORT"),
        ("kafka://h", "must look like kafka://HOST:PORT"),
        ("kafka://h/", "must look like kafka://HOST:PORT"),
        ("kafka:///t", "must look like kafka://HOST:PORT"),
        ("kafka://h/t/u", "must look like kafka://HOST:PORT"),
        ("kafka://h:0/t", "'h:0' is no HOST:PORT"),
        ("kafka://h:99999/t", "'h:99999' is no HOST:PORT"),
        ("kafka://h:port/t", "'h:port' is no HOST:PORT"),
        ("kafka://h,/t", "'' is no HOST:PORT"),
        ("kafka://h/ä", "can't be a topic"),
        ("kafka://h/..", "can't be a topic"),
        ("kafka://h/" + "t" * 250, "can't be a topic"),
        ("kafka://h/t?grup=x", "no such parameter 'grup'; valid are group, secret, start"),
        ("kafka://h/t?group=x&group=y", "'group' is given twice"),
        ("kafka://h/t?group=", "'group' has no value"),
        ("kafka://h/t?group", "?name=value"),
    ],
)
def test_a_wrong_kafka_address_is_named_with_its_flag(uri: str, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        KafkaAddress.parse(uri, "--source", ("group", "start"))
    assert str(raised.value).startswith(f"--source={address(uri)}: ")
    assert says in str(raised.value)


@pytest.mark.parametrize("login", ["user:hunter2", "user", "user:p@hunter2"])
def test_a_password_in_an_address_is_refused_and_not_repeated(login: str) -> None:
    with pytest.raises(ConfigError) as raised:
        KafkaAddress.parse(f"kafka://{login}@h:9092/t", "--to")
    assert str(raised.value).startswith("--to=kafka://h:9092/t: ")
    assert "environment" in str(raised.value)
    assert "hunter2" not in str(raised.value)


SASL = {
    "KAFKA_SECURITY_PROTOCOL": "sasl_ssl",
    "KAFKA_SASL_USERNAME": "u",
    "KAFKA_SASL_PASSWORD": "hunter2",
}


def test_security_comes_from_the_environment(tmp_path: Path) -> None:
    assert client_settings({}) == {}
    assert client_settings({"KAFKA_SECURITY_PROTOCOL": "", "KAFKA_SASL_USERNAME": ""}) == {}
    assert client_settings({"KAFKA_SECURITY_PROTOCOL": "SSL"}) == {
        "security_protocol": "SSL",
        "ssl_check_hostname": True,
    }
    files = {}
    for name in ("CAFILE", "CERTFILE", "KEYFILE"):
        files[f"KAFKA_SSL_{name}"] = str(tmp_path / name)
        (tmp_path / name).touch()
    found = client_settings(
        {
            **SASL,
            **files,
            "KAFKA_SASL_MECHANISM": "scram-sha-512",
            "KAFKA_SSL_PASSWORD": "key",
            "KAFKA_SSL_CHECK_HOSTNAME": "False",
        }
    )
    assert found == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "u",
        "sasl_plain_password": "hunter2",
        "ssl_cafile": str(tmp_path / "CAFILE"),
        "ssl_certfile": str(tmp_path / "CERTFILE"),
        "ssl_keyfile": str(tmp_path / "KEYFILE"),
        "ssl_password": "key",
        "ssl_check_hostname": False,
    }


@pytest.mark.parametrize(
    ("environment", "names", "fix"),
    [
        ({"KAFKA_SECURITY_PROTOCOL": "TLS"}, "KAFKA_SECURITY_PROTOCOL=TLS", "SASL_SSL"),
        ({"KAFKA_SASL_PASSWORD": "hunter2"}, "KAFKA_SASL_PASSWORD is set", "SASL_SSL"),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SASL_USERNAME": "u"},
            "KAFKA_SASL_USERNAME is set",
            "unset KAFKA_SASL_USERNAME",
        ),
        (
            {**SASL, "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_SSL_CAFILE": "x"},
            "KAFKA_SSL_CAFILE is set",
            "SSL or SASL_SSL",
        ),
        ({**SASL, "KAFKA_SASL_PASSWORD": ""}, "KAFKA_SASL_PASSWORD is not set", "SASL_SSL"),
        ({**SASL, "KAFKA_SASL_USERNAME": ""}, "KAFKA_SASL_USERNAME is not set", "SASL_SSL"),
        ({**SASL, "KAFKA_SASL_MECHANISM": "GSSAPI"}, "KAFKA_SASL_MECHANISM=GSSAPI", "PLAIN"),
        ({**SASL, "KAFKA_SSL_CAFILE": "/no/ca.pem"}, "KAFKA_SSL_CAFILE=/no/ca.pem", "PEM"),
        ({**SASL, "KAFKA_SSL_KEYFILE": __file__}, "KAFKA_SSL_KEYFILE", "KAFKA_SSL_CERTFILE"),
        ({**SASL, "KAFKA_SSL_CHECK_HOSTNAME": "0"}, "KAFKA_SSL_CHECK_HOSTNAME=0", "true or false"),
    ],
)
def test_wrong_security_is_named_with_its_variable(
    environment: dict[str, str], names: str, fix: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        client_settings(environment)
    assert str(raised.value).startswith(names)
    assert fix in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAFKA_SECURITY_PROTOCOL", *kafka._SASL, *kafka._SSL, "PUBSUB_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)


def refused(address: KafkaAddress, flag: str = "--source") -> str:
    """What checking the topic says, in time."""
    started = time.monotonic()
    with pytest.raises(ConfigError) as raised:
        kafka.check_topic(address, flag)
    assert time.monotonic() - started < MOST_S
    message = str(raised.value)
    assert message.startswith(f"{flag}={address}: ")
    return message


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@pytest.mark.slow
def test_a_broker_that_is_not_there_is_named_in_time() -> None:
    place = f"127.0.0.1:{free_port()}"
    said = refused(KafkaAddress((place, f"127.0.0.1:{free_port()}"), "t"))
    assert f"no broker answers at {place}: Connection refused" in said
    assert "check the address" in said


@contextlib.contextmanager
def listening(tls: ssl.SSLContext | None) -> Iterator[str]:
    """Something that takes connections, by TLS if asked, and never answers as Kafka does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                if tls is not None:
                    with contextlib.suppress(OSError):
                        held.append(tls.wrap_socket(connection, server_side=True))

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for connection in held:
                connection.close()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A server's TLS with a certificate that nobody has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


@pytest.mark.parametrize(
    ("protocol", "by_tls", "fix"),
    [
        ("PLAINTEXT", True, "wants TLS; set KAFKA_SECURITY_PROTOCOL to SSL"),
        ("SASL_PLAINTEXT", True, "wants TLS; set KAFKA_SECURITY_PROTOCOL to SASL_SSL"),
        ("SSL", False, "without TLS; set KAFKA_SECURITY_PROTOCOL to PLAINTEXT"),
        ("SSL", True, "its certificate is not trusted, or it refuses ours; check KAFKA_SSL_CAFILE"),
        ("PLAINTEXT", False, "not to PLAINTEXT as a Kafka broker does; check the port"),
    ],
)
def test_a_listener_of_another_protocol_is_named_in_time(
    protocol: str, by_tls: bool, fix: str, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "CHECK_S", 2.5)  # the other test shows that all of it is in time
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", protocol)
    if protocol.startswith("SASL"):
        monkeypatch.setenv("KAFKA_SASL_USERNAME", "u")
        monkeypatch.setenv("KAFKA_SASL_PASSWORD", "hunter2")
    with listening(tls if by_tls else None) as place:
        said = refused(KafkaAddress((place,), "t"))
    assert f"{place} answers, but {fix}" in said
    assert "hunter2" not in said


def test_a_pubsub_address_names_project_and_topic() -> None:
    address = PubSubAddress.parse("pubsub://example.com:proj-1/a~b?ordered=true", "--to", "topic", ("ordered",))  # fmt: skip
    assert address.topic_path == "projects/example.com:proj-1/topics/a~b"
    assert address.subscription_path == "projects/example.com:proj-1/subscriptions/a~b"
    assert address.parameters == {"ordered": "true"}
    assert str(address) == "pubsub://example.com:proj-1/a~b"


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("pubsub:proj/t", "must look like pubsub://PROJECT/SUBSCRIPTION"),
        ("pubsub://proj", "must look like pubsub://PROJECT/SUBSCRIPTION"),
        ("pubsub://Proj/abc", "'Proj' can't be a project's id"),
        ("pubsub://proj/ab", "'ab' can't be a subscription"),
        ("pubsub://proj/google-x", "'google-x' can't be a subscription"),
        ("pubsub://proj/abc?x=1", "no such parameter 'x'; it takes none"),
    ],
)
def test_a_wrong_pubsub_address_is_named_with_its_flag(uri: str, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        PubSubAddress.parse(uri, "--source", "subscription")
    assert str(raised.value).startswith(f"--source={address(uri)}: ")
    assert says in str(raised.value)


def test_missing_credentials_are_named_in_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(ConfigError) as raised:
        pubsub_connect.check_topic(PubSubAddress("proj", "topic"), "--to")
    assert str(raised.value).startswith("--to=pubsub://proj/topic: no credentials")
    assert "gcloud auth application-default login" in str(raised.value)


def test_what_hangs_is_left_behind_and_what_fails_raises() -> None:
    over = threading.Event()
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"0\.2 s"):
        within(0.2, over.wait)
    assert time.monotonic() - started < 2
    over.set()
    with pytest.raises(KeyError):
        within(5, lambda: {}["x"])  # type: ignore[index]
    assert within(5, lambda: None) is None
