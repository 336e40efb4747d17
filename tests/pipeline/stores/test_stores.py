"""What every store promises: whole or not at all, never over another, found again."""

from __future__ import annotations

import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.api_core.exceptions import Forbidden

from pipeline.errors import ConfigError, LakeFailed
from pipeline.stores import Store, local, store_at
from pipeline.stores.gcs import GcsStore
from pipeline.stores.remote import LARGE_BYTES
from tests.pipeline.conftest import Place, make_place
from tests.pipeline.stores.faults import CUT, LOST, Fault

NOON_US = 1_717_243_200_000_000
LARGE = os.urandom(1 << 20) * (LARGE_BYTES // (1 << 20) + 1)


def test_what_is_created_is_there(place: Place) -> None:
    store = place.store
    store.check()
    assert store.create("readings/dt=2024-06-01/a.parquet", b"first")
    assert store.create("readings/dt=2024-06-01/b.parquet", pa.py_buffer(b"second"))
    assert store.create("empty", b"")
    with store.open("readings/dt=2024-06-01/a.parquet") as file:
        assert file.read() == b"first"
    with store.open("readings/dt=2024-06-01/b.parquet", size=6) as file:
        assert file.read() == b"second"
    assert store.exists("empty") and not store.exists("readings/dt=2024-06-01")
    assert set(place.versions()) == {
        "the/lake/empty",
        "the/lake/readings/dt=2024-06-01/a.parquet",
        "the/lake/readings/dt=2024-06-01/b.parquet",
    }


def test_nothing_is_written_over_another(place: Place) -> None:
    place.store.create("a", b"first")
    before = place.versions()
    assert not place.store.create("a", b"second")
    assert place.versions() == before
    with place.store.open("a") as file:
        assert file.read() == b"first"


def copied(store: Store, path: str, local: Path) -> bool:
    with local.open("rb") as file:
        return store.create_from(path, file, NOON_US)


@pytest.mark.parametrize("size", [3, len(LARGE)])
def test_a_file_is_taken_as_it_is(place: Place, tmp_path: Path, size: int) -> None:
    local = tmp_path / "local.zip"
    local.write_bytes(LARGE[:size])
    assert copied(place.store, "raw/x/local.zip", local)
    before = place.versions()
    local.write_bytes(b"other")
    assert not copied(place.store, "raw/x/local.zip", local)
    after = place.versions()
    assert {name: after[name] for name in before if "raw/" in name} == {
        name: before[name] for name in before if "raw/" in name
    }
    with place.store.open("raw/x/local.zip") as file:
        assert file.read() == LARGE[:size]


def test_of_many_at_once_one_creates(place: Place) -> None:
    contents = [bytes([number]) * 50_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda data: place.store.create("one", data), contents))
    assert sum(made) == 1
    with place.store.open("one") as file:
        assert file.read() == contents[made.index(True)]
    assert list(place.versions()) == ["the/lake/one"]


def test_files_are_found_below_a_folder(place: Place) -> None:
    store = place.store
    for path in ("a/dt=1/x", "a/dt=1/y", "a/dt=2/x", "ab/x", "a/.hidden/x", "a/dt=2/.part", "x"):
        store.create(path, path.encode())
    found = {each.path: each for each in store.files("a")}
    assert list(found) == ["a/dt=1/x", "a/dt=1/y", "a/dt=2/x"]
    assert {each.size for each in found.values()} == {8}
    assert all(abs(each.modified_s - time.time()) < 60 for each in found.values())
    assert [each.path for each in store.files("a/dt=1")] == ["a/dt=1/x", "a/dt=1/y"]
    assert list(store.files("none")) == []
    everything = sorted(each.path for each in store.files(""))
    assert everything == ["a/dt=1/x", "a/dt=1/y", "a/dt=2/x", "ab/x", "x"]


def test_files_since_a_time(place: Place) -> None:
    store = place.store
    store.create("a/old", b"")
    time.sleep(2.1)  # S3 knows whole seconds
    since_s = time.time()
    time.sleep(0.1)
    store.create("a/new", b"")
    assert [each.path for each in store.files("a", since_s)] == ["a/new"]
    assert list(store.files("a", time.time() + 60)) == []


def test_many_files_are_listed_in_pages(remote: Place) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: remote.store.create(f"a/{n:04}", b""), range(1003)))
    assert [each.path for each in remote.store.files("a")] == [f"a/{n:04}" for n in range(1003)]


def test_a_copy_in_another_process_is_the_same_store(place: Place) -> None:
    place.store.create("a", b"first")
    copy = pickle.loads(pickle.dumps(place.store))
    assert copy.uri == place.store.uri and copy.exists("a") and not copy.create("a", b"second")


def test_parquet_is_read_in_ranges(remote: Place) -> None:
    columns = {f"column{n}": pa.array(range(n, n + 100_000)) for n in range(20)}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    data = sink.getvalue()
    remote.store.create("a.parquet", data)
    assert remote.faults is not None
    remote.faults.plan()
    with remote.store.open("a.parquet", data.size) as file:
        assert pq.read_schema(file).names == list(columns)
    assert len(remote.faults.seen) <= 2
    with remote.store.open("a.parquet", data.size) as file:
        assert pq.read_table(file, columns=["column7"]).column(0).to_pylist()[:2] == [7, 8]
    assert len(remote.faults.seen) <= 8


# --- servers that fail --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "faults", [(503, 503), (429,), (500, 502, 504), (CUT,), (LOST,), (LOST, 503), (CUT, LOST)]
)
def test_an_upload_is_tried_again(
    remote: Place, caplog: pytest.LogCaptureFixture, faults: tuple[Fault, ...]
) -> None:
    assert remote.faults is not None
    remote.faults.plan(*faults)
    made = remote.store.create("a", b"data")
    assert remote.faults.left == 0
    # What got there at first, unheard, is there at the second.
    assert made is (LOST not in faults)
    assert list(remote.versions()) == ["the/lake/a"]
    with remote.store.open("a") as file:
        assert file.read() == b"data"
    told = [r.getMessage() for r in caplog.records if r.name == "pipeline.stores.remote"]
    assert ["trying again" in line for line in told] == [True, False]
    assert "the/lake/a" in told[0] and "answers again" in told[1]


@pytest.mark.parametrize("faults", [(503,), (LOST,), (CUT, 503), (LOST, LOST)])
def test_a_large_upload_is_tried_again(
    remote: Place, tmp_path: Path, faults: tuple[Fault, ...]
) -> None:
    local = tmp_path / "local.zip"
    local.write_bytes(LARGE)
    assert remote.faults is not None
    remote.faults.plan(*faults)
    copied(remote.store, "a", local)
    assert remote.faults.left == 0
    with remote.store.open("a") as file:
        assert file.read() == LARGE


def test_an_account_that_may_not_write_over_an_object_finds_that_it_is_there(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    place = make_place("gs", request, tmp_path)
    assert place.faults is not None
    assert place.store.create("a", b"first")
    # What a worker with objectCreator may be answered, who may not delete.
    place.faults.plan(403, of="upload")
    assert not place.store.create("a", b"second")
    assert place.faults.left == 0
    place.faults.plan(403, of="upload")
    with pytest.raises(Forbidden):
        place.store.create("b", b"first")
    place.faults.plan()
    with place.store.open("a") as file:
        assert file.read() == b"first"


def test_parts_of_a_very_large_upload(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.stores.s3._SINGLE_BYTES", 1)
    monkeypatch.setattr("pipeline.stores.s3._PART_BYTES", 5 << 20)
    place = make_place("s3", request, tmp_path)
    bucket, faults = place.store.bucket, place.faults  # type: ignore[attr-defined]
    assert faults is not None
    client = boto3.client("s3")
    local = tmp_path / "local.zip"
    local.write_bytes(LARGE)
    # A part, another one, and putting them together.
    faults.plan(LOST, CUT, 503, of="uploadId")
    assert copied(place.store, "a", local)
    assert faults.left == 0
    with place.store.open("a") as file:
        assert file.read() == LARGE
    faults.plan(*[400] * 3, of="partNumber=2")
    with pytest.raises(Exception, match="400"):
        copied(place.store, "b", local)
    faults.plan()
    assert list(place.versions()) == ["the/lake/a"]
    assert not client.list_multipart_uploads(Bucket=bucket).get("Uploads")
    # Of putting them together the answer is lost.
    faults.plan(*[LOST] * 3, of="uploadId", methods="POST")
    assert copied(place.store, "b", local)
    with place.store.open("b") as file:
        assert file.read() == LARGE


def test_reads_are_tried_again(remote: Place) -> None:
    remote.store.create("a/b", b"data")
    assert remote.faults is not None
    for faults in ((503,), (CUT, 500), (LOST,)):
        remote.faults.plan(*faults, methods="GET HEAD")
        assert [each.path for each in remote.store.files("a")] == ["a/b"]
        assert remote.faults.left == 0
        remote.faults.plan(*faults, methods="GET HEAD")
        assert remote.store.exists("a/b")
        assert remote.faults.left == 0
        remote.faults.plan(*faults, methods="GET")
        with remote.store.open("a/b", 4) as file:
            assert file.read() == b"data"
        assert remote.faults.left == 0


@pytest.mark.parametrize("fault", [403, 400, 404])
def test_what_does_not_pass_is_an_error_at_once(remote: Place, fault: int) -> None:
    assert remote.faults is not None
    remote.faults.plan(fault)
    with pytest.raises(Exception, match=str(fault)):
        remote.store.create("a", b"data")
    sent = [path for method, path in remote.faults.seen if method in ("POST", "PUT")]
    assert len(sent) == 1 and not remote.versions()


def test_patience_ends(remote: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.stores.remote.PATIENCE_S", 1.0)
    assert remote.faults is not None
    remote.faults.plan(*[503] * 100)
    began = time.monotonic()
    with pytest.raises(Exception, match=r"503|Timeout"):
        remote.store.create("a", b"data")
    assert time.monotonic() - began < 10
    remote.faults.plan()


# --- launch -------------------------------------------------------------------------------------


def test_a_check_leaves_nothing_behind(place: Place) -> None:
    place.store.create("a", b"")
    for _ in range(2):
        place.store.check()
    assert list(place.versions()) == ["the/lake/a"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^--lake=.*file.*can't be written .*; give a folder"):
        store_at(str(tmp_path / "file")).check()


def test_what_killed_jobs_left_goes_after_a_day(tmp_path: Path) -> None:
    for name, age_s in ((".old.partial", 90_000), (".new.partial", 80_000)):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    store_at(str(tmp_path)).prepare()
    assert [path.name for path in tmp_path.iterdir()] == [".new.partial"]


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_bucket_that_is_not_there(
    scheme: str, gcs_environment: object, s3_environment: str
) -> None:
    uri = f"{scheme}://no-such-bucket-here/lake"
    with pytest.raises(ConfigError, match=f"^--lake={uri}: there is no bucket .*; create it"):
        store_at(uri).check()


@pytest.mark.parametrize(
    ("status", "told"),
    [(403, "may not use it .*; grant it"), (400, "can't be used")],
)
@pytest.mark.parametrize("method", ["GET", "POST PUT"])
def test_a_bucket_that_may_not_be_used(remote: Place, method: str, status: int, told: str) -> None:
    assert remote.faults is not None
    remote.faults.plan(*[status] * 3, methods=method)
    with pytest.raises(ConfigError, match=f"^--lake={remote.store.uri}: .*{told}"):
        remote.store.check()
    remote.faults.plan()
    assert not remote.versions()


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_server_that_does_not_answer(
    scheme: str, gcs_environment: object, s3_environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(ConfigError, match=f"^--lake={scheme}://b/lake: .*(answer|can't be used)"):
        store_at(f"{scheme}://b/lake").check()
    assert time.monotonic() - began < 15


def test_where_a_bucket_lies_for_another_flag(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    place = make_place("gs", request, tmp_path)
    bucket = place.store.bucket  # type: ignore[attr-defined]

    def store(name: str) -> GcsStore:
        flags = ("--temp_location", "roles/some.role", "europe-west3")
        return GcsStore(f"gs://{name}/tmp", name, "tmp", *flags)

    assert store(bucket).look() == ("US-CENTRAL1", ())
    missing = "--location=europe-west3"
    with pytest.raises(ConfigError, match=f"^--temp_location=gs://none/tmp: .*gs://none {missing}"):
        store("none").look()
    assert place.faults is not None
    place.faults.plan(403, methods="GET")
    with pytest.raises(ConfigError, match=r"may not use it .*; grant it roles/some.role on the"):
        store(bucket).look()


def test_google_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(ConfigError, match=r"no credentials .*; set GOOGLE_APPLICATION_CREDENTIALS"):
        store_at("gs://bucket/lake").check()


def test_s3_without_credentials(monkeypatch: pytest.MonkeyPatch, s3_environment: str) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/none")
    with pytest.raises(ConfigError, match=r"no credentials; set AWS_ACCESS_KEY_ID"):
        store_at("s3://bucket/lake").check()


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("gs://", "must look like gs://BUCKET/PREFIX"),
        ("s3:///x", "must look like s3://BUCKET/PREFIX"),
        ("gs://b/x*", "without any of"),
        ("ftp://b/x", "no such lake; give a folder, gs://"),
        ("s3://key:secret@b/x", "must not stand in the address"),
    ],
)
def test_addresses_that_are_none(uri: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        store_at(uri)
    assert "secret" not in str(error.value)


def test_addresses_may_be_written_in_several_ways(gcs_environment: object) -> None:
    for uri in ("gs://b/a//c/", "GS://b/a/c"):
        store = store_at(uri)
        assert (store.bucket, store._prefix) == ("b", "a/c/")  # type: ignore[attr-defined]
    assert store_at("gs://b")._prefix == ""  # type: ignore[attr-defined]


# --- on the disk itself -------------------------------------------------------------------------


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was put on the disk itself, in order."""
    found: list[Path] = []
    really = os.fsync

    def fsync(handle: int) -> None:
        found.append(Path(f"/proc/self/fd/{handle}").readlink())
        really(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return found


def test_a_file_and_every_new_folder_are_on_the_disk_before_it_counts(
    tmp_path: Path, synced: list[Path]
) -> None:
    store = store_at(str(tmp_path / "lake"))
    store.prepare()
    store.create("a/dt=1/x", b"x")
    lake = tmp_path / "lake"
    assert synced[0].parent == lake / "a" / "dt=1"
    assert synced[1:] == [lake / "a" / "dt=1", lake / "a", lake, tmp_path]
    synced.clear()
    store.create("a/dt=1/y", b"y")
    assert synced[1:] == [lake / "a" / "dt=1"]
    synced.clear()
    store.keep("a/dt=1/x")
    assert synced == [lake / "a" / "dt=1" / "x", lake / "a" / "dt=1"]


def test_a_run_s_files_are_on_the_disk_at_its_end(tmp_path: Path, synced: list[Path]) -> None:
    store = store_at(str(tmp_path / "lake"))
    store.prepare()
    store.create("a/before", b"x")
    synced.clear()
    with local.synced_at_end():
        store.create("a/x", b"x")
        store.keep("a/before")
        assert not synced
    lake = tmp_path / "lake"
    assert set(synced) == {lake / "a" / "x", lake / "a" / "before", lake / "a", lake, tmp_path}


@pytest.mark.parametrize("left", [None, b"", b"other"])
def test_a_run_whose_files_are_gone_at_its_end_fails(tmp_path: Path, left: bytes | None) -> None:
    store = store_at(str(tmp_path))
    path = tmp_path / "a" / "x"

    def run() -> None:
        with local.synced_at_end():
            store.create("a/x", b"x")
            path.unlink()
            if left is not None:
                path.write_bytes(left)

    with pytest.raises(LakeFailed, match=rf"^--lake: {path} was written by this run and "):
        run()
