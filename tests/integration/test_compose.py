"""The Compose file offers what its comments and the tests' services promise, without an engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.services import kafka, pubsub

FILE = Path(__file__).parents[2] / "deploy" / "compose.yaml"
COMPOSE = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_pinned_healthy_and_closed_to_the_network(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[\w./-]+:v?\d+(\.\d+)+(-[a-z]+)?", service["image"]), service["image"]
    check = service["healthcheck"]
    assert check["test"][0] in ("CMD", "CMD-SHELL")
    assert check["retries"] * float(check["interval"].removesuffix("s")) <= 120
    assert service["ports"]
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in service["ports"])


def test_volumes_are_declared() -> None:
    used = {volume.split(":")[0] for one in SERVICES.values() for volume in one.get("volumes", [])}
    assert used == set(COMPOSE["volumes"])


def test_clients_on_this_machine_are_told_the_published_port() -> None:
    flags = dict(flag.split("=", 1) for flag in SERVICES["redpanda"]["command"] if "=" in flag)
    listens, told = (
        dict(each.split("://") for each in flags[name].split(","))
        for name in ("--kafka-addr", "--advertise-kafka-addr")
    )
    assert listens.keys() == told.keys()
    _, published, inside = SERVICES["redpanda"]["ports"][0].split(":")
    assert listens["outside"].endswith(f":{inside}")
    assert told["outside"] == f"127.0.0.1:{published}"
    assert told["inside"].split(":") == ["redpanda", listens["inside"].split(":")[1]]
    assert f"{kafka.EXTERNAL}={told['outside']}" in FILE.read_text()


def test_the_emulator_listens_where_it_is_published() -> None:
    command = SERVICES["pubsub"]["command"]
    host, published, inside = SERVICES["pubsub"]["ports"][0].split(":")
    assert f"--host-port=0.0.0.0:{inside}" in command
    assert f"--project={pubsub.PROJECT}" in command
    assert f"http://127.0.0.1:{inside}" in SERVICES["pubsub"]["healthcheck"]["test"]
    assert f"{pubsub.EXTERNAL}={host}:{published}" in FILE.read_text()
