"""The whole job with its lake on Google Cloud Storage and on S3, and that lake as a source."""

from __future__ import annotations

import io
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.stores import Store, store_at
from tests.running import run
from tests.services.fixtures import set_environment, started
from tests.services.gcs import Gcs
from tests.services.minio import Minio
from tests.services.s3 import S3

pytestmark = pytest.mark.integration

FLEET = "simulator:?equipment=6&readings=12000&interval=30&faults=0.01&duplicates=0.01&late=0.02"
CSV = b"Date_Time,Voltage(V),Current(A)\n" + b"".join(
    b"2024-01-01 00:%02d:%02d,3.7,%d\n" % (second // 60, second % 60, second % 7)
    for second in range(3000)
)


@dataclass(frozen=True)
class Lake:
    """A lake on a server.

    Attributes:
        uri: for --lake.
    """

    uri: str

    @property
    def store(self) -> Store:
        """What is there."""
        return store_at(self.uri)

    def files(self, folder: str = "") -> dict[str, tuple[int, float]]:
        """Size and time of every file, which changes with every write; not a run's own positions."""
        return {
            each.path: (each.size, each.modified_s)
            for each in self.store.files(folder)
            if not each.path.startswith("source_positions/")
        }

    def read(self, path: str) -> bytes:
        """A file's content."""
        with self.store.open(path) as file:
            return file.read()

    def readings(self) -> pa.Table:
        """All readings, by id."""
        tables = [pq.read_table(io.BytesIO(self.read(path))) for path in self.files("readings")]
        return pa.concat_tables(tables).sort_by("reading_id")


@pytest.fixture(scope="module")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with started(Minio, tmp_path_factory.mktemp("minio")) as service:
        yield service


@pytest.fixture(params=["gs", "s3", pytest.param("minio", marks=pytest.mark.long)])
def lake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A new lake in a new bucket, with the environment that leads there."""
    if request.param == "gs":
        server: Gcs = request.getfixturevalue("gcs")
        set_environment(monkeypatch, server.environment)
        return Lake(f"gs://{server.make_bucket()}/the/lake")
    if request.param == "minio":
        minio: Minio = request.getfixturevalue("minio")
        set_environment(monkeypatch, minio.environment)
        return Lake(f"s3://{minio.make_bucket()}/the/lake")
    s3: S3 = request.getfixturevalue("s3")
    set_environment(monkeypatch, s3.environment)
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    boto3.session.Session().client("s3").create_bucket(Bucket=bucket)
    return Lake(f"s3://{bucket}/the/lake")


def test_the_lake_is_the_same_as_on_disk_and_a_second_run_changes_nothing(
    lake: Lake, tmp_path: Path
) -> None:
    disk = run(tmp_path, FLEET)
    there = run(tmp_path / "there", FLEET, f"--lake={lake.uri}")
    assert disk.status == there.status == 0, there.err
    assert there.account() == disk.account() and there.account()["dead_letters"] > 0
    written = lake.files()
    # Names tell the content.
    assert {name.split("/")[0] for name in written} == {
        "raw",
        "readings",
        "dead_letters",
        "cycles_live",
    }
    sizes = {path.relative_to(disk.lake).as_posix(): path.stat().st_size
             for path in disk.lake.rglob("*.parquet")}  # fmt: skip
    arriving = ("raw/", "dead_letters/")  # by the time of the run
    assert {name: size for name, (size, _) in written.items() if not name.startswith(arriving)} == {
        name: size for name, size in sizes.items() if not name.startswith(arriving)
    }
    assert lake.readings().num_rows == there.account()["written"]
    days = {name.split("/")[1] for name in written if name.startswith("readings/")}
    assert len(days) == sum(name.startswith("readings/") for name in written)
    again = run(tmp_path / "again", FLEET, f"--lake={lake.uri}")
    assert again.status == 0, again.err
    assert lake.files("readings") == {
        name: found for name, found in written.items() if name.startswith("readings/")
    }


def test_files_are_archived_as_they_are_and_read_from_there(lake: Lake, tmp_path: Path) -> None:
    packed = tmp_path / "in" / "C1" / "C1_1_2_11.zip"
    packed.parent.mkdir(parents=True)
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("C1/C1_1_2_11.csv", CSV)
        # So that it goes up in more than one request.
        archive.writestr("C1/noise.md", uuid.uuid4().bytes * (1 << 20), zipfile.ZIP_STORED)
    first = run(tmp_path / "first", packed, f"--lake={lake.uri}")
    assert first.status == 0, first.err
    assert first.account()["written"] == 3000
    (raw,) = lake.files("raw")
    assert raw.startswith("raw/source=files/dt=") and raw.endswith("/C1/C1_1_2_11.zip")
    assert lake.read(raw) == packed.read_bytes()
    before = lake.files()
    assert run(tmp_path / "again", packed, f"--lake={lake.uri}").status == 0
    assert lake.files() == before
    # From the lake to itself: it lies in the archive, and its readings are known.
    again = run(tmp_path / "third", f"{lake.uri}/{raw}", f"--lake={lake.uri}")
    assert again.status == 0, again.err
    assert again.account() == first.account() and lake.files() == before
    # And to another lake, which keeps the file, too.
    elsewhere = Lake(lake.uri + "-other")
    assert run(tmp_path / "fourth", f"{lake.uri}/raw", f"--lake={elsewhere.uri}").status == 0
    (copy,) = elsewhere.files("raw")
    assert elsewhere.read(copy) == packed.read_bytes()
    assert elsewhere.readings().equals(lake.readings())


def test_archived_messages_are_a_source(lake: Lake, tmp_path: Path) -> None:
    first = run(tmp_path / "first", FLEET, f"--lake={lake.uri}")
    assert first.status == 0, first.err
    again = run(tmp_path / "again", f"{lake.uri}/raw", "--lake=none")
    assert again.status == 0, again.err
    assert again.account() == first.account()
    assert again.table("readings", "reading_id").select(["reading_id"]) == first.table(
        "readings", "reading_id"
    ).select(["reading_id"])


def test_a_bucket_that_is_not_there_is_told_before_anything_is_read(
    lake: Lake, tmp_path: Path
) -> None:
    scheme = lake.uri.partition("://")[0]
    ran = run(tmp_path, FLEET, f"--lake={scheme}://no-such-bucket-here/lake")
    assert ran.status == 2
    assert ran.err.startswith(f"error: --lake={scheme}://no-such-bucket-here/lake: there is no")
