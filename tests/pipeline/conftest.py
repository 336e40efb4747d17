"""The three stores, each empty, and a proxy that lets their servers fail."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest

from pipeline.stores import Store, store_at
from tests.pipeline.stores.faults import Faults
from tests.services.fixtures import set_environment, started
from tests.services.gcs import Gcs
from tests.services.minio import Minio
from tests.services.processes import free_port
from tests.services.s3 import S3


@dataclass
class Place:
    """Where a store under test is.

    Attributes:
        store: the store, empty.
        faults: lets its server fail; None where there is no server.
        versions: the names in it, each with what changes when it is written again.
    """

    store: Store
    faults: Faults | None
    versions: Callable[[], dict[str, object]]


@pytest.fixture(scope="session")
def fake_gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gcs, Faults]]:
    port = free_port()
    folder = tmp_path_factory.mktemp("gcs")
    with Faults(port) as faults, started(Gcs, folder, port, faults.url) as server:
        yield server, faults


@pytest.fixture(scope="session")
def s3_server(s3: S3) -> Iterator[tuple[S3, Faults]]:
    with Faults(s3.port) as faults:
        yield s3, faults


@pytest.fixture(scope="session")
def minio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Minio, Faults]]:
    folder = tmp_path_factory.mktemp("minio")
    with started(Minio, folder) as server, Faults(server.port) as faults:
        yield server, faults


@pytest.fixture
def gcs_environment(fake_gcs: tuple[Gcs, Faults], monkeypatch: pytest.MonkeyPatch) -> Gcs:
    set_environment(monkeypatch, fake_gcs[0].environment)
    return fake_gcs[0]


@pytest.fixture
def s3_environment(s3_server: tuple[S3, Faults], monkeypatch: pytest.MonkeyPatch) -> str:
    """The endpoint."""
    server, faults = s3_server
    set_environment(monkeypatch, server.environment | {"AWS_ENDPOINT_URL": faults.url})
    return faults.url


@pytest.fixture
def minio_environment(minio_server: tuple[Minio, Faults], monkeypatch: pytest.MonkeyPatch) -> None:
    server, faults = minio_server
    set_environment(monkeypatch, server.environment | {"AWS_ENDPOINT_URL": faults.url})


MINIO = pytest.param("minio", marks=pytest.mark.long)


@pytest.fixture(params=["folder", "gs", "s3", MINIO])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each of the stores in turn."""
    return make_place(request.param, request, tmp_path)


@pytest.fixture(params=["gs", "s3"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each of the stores that have a server."""
    return make_place(request.param, request, tmp_path)


def make_place(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A new store."""
    if kind == "gs":
        server: Gcs = request.getfixturevalue("gcs_environment")
        faults = request.getfixturevalue("fake_gcs")[1]
        bucket = server.make_bucket()
        faults.plan()
        return Place(
            store_at(f"gs://{bucket}/the/lake"), faults, lambda: dict(server.objects(bucket))
        )
    if kind in ("s3", "minio"):
        _, faults = request.getfixturevalue(f"{kind}_server")
        request.getfixturevalue(f"{kind}_environment")
        client = boto3.session.Session().client("s3")
        bucket = f"bucket-{uuid.uuid4().hex[:12]}"
        client.create_bucket(Bucket=bucket)
        faults.plan()

        def versions() -> dict[str, object]:
            found = client.list_objects_v2(Bucket=bucket).get("Contents", ())
            return {each["Key"]: (each["ETag"], each["LastModified"]) for each in found}

        return Place(store_at(f"s3://{bucket}/the/lake"), faults, versions)
    root = tmp_path / "the" / "lake"

    def stats() -> dict[str, object]:
        return {
            path.relative_to(tmp_path).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in sorted(tmp_path.rglob("*"))
            if path.is_file()
        }

    return Place(store_at(str(root)), None, stats)
