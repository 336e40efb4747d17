"""Tests the file source on s3:// paths, against moto's S3 server."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Iterator

import boto3
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.errors import ConfigError
from pipeline.progress import PROGRESS
from pipeline.sources.files.source import FileSource
from pipeline.sources.files.splits import list_files
from tests.pipeline.sources.reading import run
from tests.services.s3 import S3
from tests.workbooks import xlsx

TABLE = b"Date_Time,Voltage(V),Current(A)\n" + b"2024-01-01 00:00:00,3.7,1\n" * 500


@pytest.fixture
def options(s3: S3) -> Iterator[PipelineOptions]:
    flags = PipelineOptions(
        s3_endpoint_url=s3.url,
        s3_access_key_id="test",
        s3_secret_access_key="test",
        s3_region_name="us-east-1",
    )
    before = FileSystems._pipeline_options
    FileSystems.set_options(flags)
    yield flags
    FileSystems.set_options(before)


@pytest.fixture
def bucket(s3: S3) -> str:
    client = boto3.client(
        "s3",
        endpoint_url=s3.url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_bucket(Bucket="cells")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("C2/C2_1.csv", TABLE)
        rows = [["Voltage(V)", "Current(A)"], [3.7, 1.0]]
        archive.writestr("C2/C2_2.xlsx", xlsx({"Channel_1": rows}))
    for key, data in {
        "in/C1/C1_1_2_11.csv": TABLE,
        "in/C1/": b"",
        "in/C2.zip": packed.getvalue(),
        "in/log.ndjson.gz": gzip.compress(b'{"a":1}\n' * 100),
        "in/README.md": b"about",
        "in/bad.xlsx": b"PK\x03\x04",
        "other/a.csv": TABLE,
    }.items():
        client.put_object(Bucket="cells", Key=key, Body=data)
    return "s3://cells"


def test_a_prefix_is_a_folder(options: PipelineOptions, bucket: str) -> None:
    source = FileSource(f"{bucket}/in", f"{bucket}/in", split_bytes=8000)
    source.check()
    PROGRESS.reset()
    found = run(source, options)
    assert len(found.rows) == 500 + 500 + 1 + 100
    assert found.errors == ["corrupt_workbook"]
    assert {file.path for file in found.files} == {
        f"{bucket}/in/{name}"
        for name in ("C1/C1_1_2_11.csv", "C2.zip", "log.ndjson.gz", "bad.xlsx")
    }
    assert all(file.arrived_at_us > 1.7e15 for file in found.files)
    assert PROGRESS.done == source.total
    assert {batch.origin.equipment_id for batch in found.batches} >= {"C1", "C2"}


def test_objects_and_globs(options: PipelineOptions, bucket: str) -> None:
    for pattern, count in (("in/C1/*.csv", 1), ("other/a.csv", 1), ("**/*.csv", 2), ("i*", 4)):
        assert len(list_files(f"{bucket}/{pattern}")) == count
    assert len(list_files(bucket)) == 5
    assert len(run(FileSource(f"{bucket}/other/a.csv", "s3"), options).rows) == 500


def test_what_is_not_there(options: PipelineOptions, bucket: str) -> None:
    with pytest.raises(ConfigError, match="matches no file"):
        FileSource(f"{bucket}/nothing", "s3").check()
    with pytest.raises(ConfigError, match="--source=s3"):
        FileSource("s3://no-such-bucket/x", "s3").check()
