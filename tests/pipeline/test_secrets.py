"""Kafka's login from Secret Manager, against a server that speaks its protocol."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest
from google.cloud.secretmanager_v1 import types

from pipeline.connect import secrets
from pipeline.connect.kafka import KafkaAddress, client_settings
from pipeline.errors import ConfigError

NAME = "projects/lab/secrets/kafka"
URI = f"kafka://broker:9092/readings?secret={NAME}"
LOGIN = b"KAFKA_SECURITY_PROTOCOL=SASL_SSL\n# of the lab\n\nKAFKA_SASL_USERNAME=a\nKAFKA_SASL_PASSWORD=b=c\n"


class Manager(grpc.GenericRpcHandler):
    """Answers AccessSecretVersion from a dictionary."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.asked: list[str] = []

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if not call.method.endswith("/AccessSecretVersion"):
            return None
        return grpc.unary_unary_rpc_method_handler(
            self.access,
            request_deserializer=types.AccessSecretVersionRequest.deserialize,
            response_serializer=types.AccessSecretVersionResponse.serialize,
        )

    def access(
        self, request: types.AccessSecretVersionRequest, context: grpc.ServicerContext
    ) -> types.AccessSecretVersionResponse:
        self.asked.append(request.name)
        if request.name not in self.kept:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "secretmanager.versions.access denied")
        payload = types.SecretPayload(data=self.kept[request.name])
        return types.AccessSecretVersionResponse(name=request.name, payload=payload)


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    handler = Manager()
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("SECRET_MANAGER_EMULATOR_HOST", f"127.0.0.1:{port}")
    monkeypatch.setattr(secrets, "_known", {})
    yield handler
    server.stop(None)


def test_the_latest_version_is_the_login_and_is_read_once(manager: Manager) -> None:
    manager.kept[f"{NAME}/versions/latest"] = LOGIN
    address = KafkaAddress.parse(URI, "--source")
    for _ in range(2):
        settings = client_settings(address.environment)
        assert settings["security_protocol"] == "SASL_SSL"
        assert settings["sasl_plain_username"] == "a"
        assert settings["sasl_plain_password"] == "b=c"
    assert manager.asked == [f"{NAME}/versions/latest"]
    assert "secret" not in str(address)


def test_a_rotated_secret_is_read_again(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_KEPT_S", 0.0)
    for password in ("old", "new"):
        manager.kept[f"{NAME}/versions/7"] = f"KAFKA_SASL_PASSWORD={password}".encode()
        found = secrets.environment(f"{NAME}/versions/7", "--source")
        assert found["KAFKA_SASL_PASSWORD"] == password


def test_a_secret_that_may_not_be_read_is_named_with_the_role(manager: Manager) -> None:
    with pytest.raises(ConfigError, match=r"kafka can't be read .*secretAccessor"):
        _ = KafkaAddress.parse(URI, "--source").environment


def test_what_a_secret_holds_is_never_shown(manager: Manager) -> None:
    manager.kept[f"{NAME}/versions/latest"] = b"hunter2"
    with pytest.raises(ConfigError, match="must hold lines such as") as raised:
        _ = KafkaAddress.parse(URI, "--source").environment
    assert "hunter2" not in str(raised.value)


def test_a_name_that_is_none_is_refused() -> None:
    address = KafkaAddress.parse("kafka://broker/readings?secret=hunter2", "--source")
    with pytest.raises(ConfigError, match="must look like projects/PROJECT/secrets/NAME"):
        _ = address.environment
