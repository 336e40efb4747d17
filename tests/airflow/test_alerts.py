"""Alerts over each kind of connection, to real servers of each protocol."""

from __future__ import annotations

import json
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from email import message_from_string, policy
from types import SimpleNamespace
from typing import Any

import pytest
from include import alerts

from tests.airflow.conftest import Webhook
from tests.services import airflow as service
from tests.services.airflow import Airflow
from tests.services.pubsub import PubSub


# It may have to be installed first.
def needs_airflow(test: Any) -> Any:
    return pytest.mark.integration(pytest.mark.long(pytest.mark.timeout(1500)(test)))


SEND = "from include import alerts; print('TOOK', alerts.send('It failed', 'Because of <that>.'))"


def send(airflow: Airflow, environment: dict[str, str]) -> str:
    """Sends one alert from Airflow's environment; which connections took it."""
    done = subprocess.run(
        [str(service.python()), "-c", SEND],
        env={"PATH": "/usr/bin:/bin", **airflow.environment, **environment},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.rpartition("TOOK ")[2].strip()


class _Mail(socketserver.StreamRequestHandler):
    """Just enough of SMTP to take a mail."""

    def handle(self) -> None:
        self._answer(220)
        while line := self.rfile.readline().decode().strip():
            if line.upper() == "DATA":
                self._answer(354)
                lines = iter(lambda: self.rfile.readline().decode(), ".\r\n")
                self.server.mails.append("".join(lines))  # type: ignore[attr-defined]
            if line.upper().startswith("RCPT"):
                self.server.to.append(line)  # type: ignore[attr-defined]
            self._answer(221 if line.upper() == "QUIT" else 250)

    def _answer(self, code: int) -> None:
        self.wfile.write(f"{code} ok\r\n".encode())


@pytest.fixture
def mail() -> Iterator[socketserver.ThreadingTCPServer]:
    """A mail server; `mails` and `to` are what it got."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Mail) as server:
        server.mails, server.to = [], []  # type: ignore[attr-defined]
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@needs_airflow
def test_slack_and_mail_get_it_and_a_broken_channel_keeps_nothing_from_them(
    airflow: Airflow, webhook: Webhook, mail: socketserver.ThreadingTCPServer
) -> None:
    smtp = {
        "conn_type": "smtp", "host": "127.0.0.1", "port": mail.server_address[1],
        "extra": {"disable_ssl": True, "disable_tls": True, "from_email": "battery@example.com",
                  "to_email": "operators@example.com"},
    }  # fmt: skip
    took = send(
        airflow,
        webhook.environment
        | {
            "AIRFLOW_VAR_BATTERY_ALERT_CONNECTIONS": "not_there, odd test_slack test_mail",
            "AIRFLOW_CONN_ODD": json.dumps({"conn_type": "ftp", "host": "127.0.0.1"}),
            "AIRFLOW_CONN_TEST_MAIL": json.dumps(smtp),
        },
    )
    assert took == "['test_slack', 'test_mail']"
    assert webhook.posted == [("/T000/B000/test", "*It failed*\nBecause of <that>.")]
    (text,) = mail.mails  # type: ignore[attr-defined]
    got = message_from_string(text, policy=policy.default)
    assert got["Subject"] == "It failed" and got["From"] == "battery@example.com"
    assert mail.to == ["rcpt TO:<operators@example.com>"]  # type: ignore[attr-defined]
    (part,) = (part for part in got.walk() if part.get_content_type() == "text/html")
    assert "Because of &lt;that&gt;." in part.get_content()


@needs_airflow
def test_pubsub_gets_it(airflow: Airflow, pubsub: PubSub) -> None:
    topic = pubsub.new_topic("alerts")
    subscription = pubsub.new_subscription(topic)
    extra = {"project": pubsub.project, "topic": topic.rpartition("/")[2]}
    connection = {"conn_type": "google_cloud_platform", "extra": extra}
    took = send(
        airflow,
        pubsub.environment
        | {
            "AIRFLOW_VAR_BATTERY_ALERT_CONNECTIONS": "test_topic",
            "AIRFLOW_CONN_TEST_TOPIC": json.dumps(connection),
        },
    )
    assert took == "['test_topic']"
    with pubsub.subscriber() as subscriber:
        answer = subscriber.pull(subscription=subscription, max_messages=5, timeout=20)
    assert [json.loads(got.message.data) for got in answer.received_messages] == [
        {"subject": "It failed", "text": "Because of <that>."}
    ]


@needs_airflow
def test_without_connections_the_log_has_it(airflow: Airflow) -> None:
    assert send(airflow, {}) == "[]"


def test_a_failure_is_told_with_its_place_and_reason() -> None:
    ti = SimpleNamespace(
        dag_id="battery_pipeline", task_id="load_lake", run_id="r1", try_number=3,
        log_url="http://airflow/log",
    )  # fmt: skip
    context = {
        "ti": ti,
        "exception": ValueError("no lake at /x"),
        "data_interval_start": datetime(2024, 6, 1, 12, tzinfo=UTC),
        "data_interval_end": datetime(2024, 6, 1, 13, tzinfo=UTC),
    }
    subject, text = alerts.failure(context)
    assert subject == "battery_pipeline.load_lake failed"
    assert text.splitlines() == [
        "no lake at /x",
        "interval 2024-06-01 12:00 to 2024-06-01 13:00 UTC, try 3, run r1",
        "http://airflow/log",
    ]
    # A manual run may have neither interval nor reason.
    assert alerts.failure({"ti": ti})[1].startswith("no reason was given\ninterval none UTC")
