"""BigQuery for tests: the emulator local-bigquery, in an environment of its own."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import urllib.request
import uuid
from pathlib import Path

import grpc
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery
from google.cloud.bigquery_storage_v1 import BigQueryWriteClient
from google.cloud.bigquery_storage_v1.services.big_query_write.transports import (
    BigQueryWriteGrpcTransport,
)

from tests.services import cache, google_account
from tests.services.environments import Environment
from tests.services.google_account import PROJECT
from tests.services.processes import Server, Service, free_port

_LAUNCHER = Path(__file__).with_name("bigquery_launcher.py")
_EMULATOR = "local-bigquery==0.4.0"  # MIT
# What it needs, less what it asks for: a later Python and DuckDB than it is used with here.
_PACKAGES = [
    "duckdb==1.5.5",
    "duckdb-extension-ducklake==1.5.5",
    "fastapi==0.165.0",
    "fastavro==1.13.1",
    "google-cloud-bigquery-storage==2.43.0",
    "grpcio==1.85.1",
    "mini-racer==0.14.1",
    "numpy==2.4.6",
    "prompt-toolkit==3.0.53",
    "pyarrow==25.0.1",
    "pydantic-settings==2.16.3",
    "pygments==2.21.0",
    "sqlglot==30.30.0",
    "uvicorn==0.54.0",
]
# The two spots whose syntax is later than Python 3.11.
_LATER_SYNTAX = {
    "catalog/metadata.py": [
        (r"def (\w+)\[R: Resource\]", r"def \1"),
        (r"\A", "from __future__ import annotations\n"),
    ],
    "engine/results.py": [
        (r"""message\.replace\("'", "''"\)""", "message.replace(chr(39), chr(39) * 2)"),
    ],
}
_GEOGRAPHY = "sql/functions/geography.sql"  # needs one more extension of DuckDB, for nothing here


class BigQuery(Server):
    """A BigQuery emulator; as a context manager it is started, and gone at the end.

    Tables are files below its folder, so they outlive a restart, as do the jobs' ids; write
    streams do not.

    Attributes:
        rest: `http://host:port` of the API, the same after a restart.
        grpc: `host:port` of the Storage API, which is not encrypted.
        project: the project that it has from the start; any other is made when first named.
    """

    def __init__(
        self,
        folder: Path,
        *,
        gcs_root: Path | None = None,
        rest_port: int | None = None,
        grpc_port: int | None = None,
    ) -> None:
        """Does not start it yet.

        Args:
            folder: where its tables, its log and the credentials live.
            gcs_root: holds a folder for every bucket that load jobs may read from, such as the
                root of a fake Cloud Storage.
            rest_port: where the API listens; a free port if not given.
            grpc_port: where the Storage API listens; a free port if not given.
        """
        super().__init__(rest_port)
        self.rest = f"http://127.0.0.1:{self.port}"
        self._grpc_port = grpc_port or free_port()
        self.grpc = f"127.0.0.1:{self._grpc_port}"
        self.project = PROJECT
        self._folder = folder.absolute()
        self._gcs_root = (gcs_root or folder / "no-gcs").absolute()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead clients, the job and dbt to it."""
        return {
            "BIGQUERY_EMULATOR_HOST": self.rest,
            "BIGQUERY_STORAGE_EMULATOR_HOST": self.grpc,
            **google_account.environment(self._folder),
        }

    def client(self) -> bigquery.Client:
        """A new client, whatever the environment says."""
        return bigquery.Client(
            project=self.project,
            credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
            client_options={"api_endpoint": self.rest},
        )

    def writer(self) -> BigQueryWriteClient:
        """A new client of the Storage Write API, whatever the environment says."""
        channel = grpc.insecure_channel(
            self.grpc, options=[("grpc.max_send_message_length", 64 << 20)]
        )
        return BigQueryWriteClient(transport=BigQueryWriteGrpcTransport(channel=channel))

    def new_dataset(self, prefix: str = "test") -> str:
        """Makes a dataset with a name that no other test has, and gives its name."""
        name = f"{prefix}_{uuid.uuid4().hex[:12]}"
        with self.client() as client:
            client.create_dataset(name)
        return name

    def _prepare(self) -> Service:
        argv = [str(environment() / "bin" / "python"), "-I", str(_LAUNCHER),
                f"--rest={self.port}", f"--grpc={self._grpc_port}", f"--project={self.project}",
                f"--data={self._folder / 'tables'}", f"--gcs={self._gcs_root}"]  # fmt: skip
        google_account.write_credentials(self._folder)
        return Service("The BigQuery emulator", argv, self._folder / "bigquery.log")

    def _answers(self) -> None:
        url = f"{self.rest}/bigquery/v2/projects/{self.project}/datasets"
        with urllib.request.urlopen(url, timeout=30) as answer:
            json.load(answer)


def environment(timeout: float = 600) -> Path:
    """The folder of the emulator's Python environment, made the first time.

    Args:
        timeout: seconds that pip may take for each of its two steps.

    Raises:
        Unavailable: the environment can't be made, or pip could not get a package.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    recipe = json.dumps([_EMULATOR, _PACKAGES, _LATER_SYNTAX, _GEOGRAPHY])
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:8]
    name = f"{_EMULATOR.replace('==', '-')}-python{version}-{digest}"
    return cache.folder(name, lambda target: _install(target, version, timeout))


def _install(target: Path, version: str, timeout: float) -> None:
    made = Environment(target, "BigQuery emulator", timeout)
    how = ("--no-compile", "--only-binary=:all:")
    made.install(*how, "--no-deps", "--ignore-requires-python", _EMULATOR)
    made.install(*how, *_PACKAGES)
    package = target / "lib" / f"python{version}" / "site-packages" / "local_bigquery"
    for path, changes in _LATER_SYNTAX.items():
        text = (package / path).read_text()
        for pattern, replacement in changes:
            text = re.sub(pattern, replacement, text)
        (package / path).write_text(text)
    (package / _GEOGRAPHY).unlink()
    made.run("-m", "compileall", "-q", str(package))
