"""An Airflow for the tests, and a place that takes alerts."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.services import airflow as service
from tests.services.airflow import Airflow
from tests.services.fixtures import available

# As Airflow itself has it: the DAGs say `from include import …`.
sys.path.insert(0, str(service.ASTRO))


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    """Airflow with an empty database, installed the first time."""
    ready = Airflow(tmp_path_factory.mktemp("airflow"))
    available(service.python)
    ready.prepare()
    return ready


class Webhook:
    """What stands where Slack's incoming webhook is.

    Attributes:
        environment: the variable and connection that lead alerts to it.
        posted: path and text of every message it got.
    """

    def __init__(self, port: int) -> None:
        self.posted: list[tuple[str, str]] = []
        self.environment = {
            "AIRFLOW_VAR_BATTERY_ALERT_CONNECTIONS": "test_slack",
            "AIRFLOW_CONN_TEST_SLACK": json.dumps(
                {
                    "conn_type": "slackwebhook",
                    "host": f"http://127.0.0.1:{port}",
                    "password": "T000/B000/test",
                }
            ),
        }


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    """A server that takes messages as Slack does."""

    class Slack(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken.posted.append((self.path, json.loads(body)["text"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Slack) as server:
        taken = Webhook(server.server_port)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield taken
        server.shutdown()
        thread.join()
