"""A job that is only written: where its jar may go, and what is told before anything is read."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest

from pipeline.engines import choose
from pipeline.engines.flink.jar import JarRunner
from pipeline.errors import ConfigError
from pipeline.options import parse
from tests.services.fixtures import set_environment
from tests.services.s3 import S3

FLINK = "--runner=FlinkRunner"


def to(path: str | Path, *flags: str) -> list[str]:
    return [FLINK, f"--output_executable_path={path}", *flags]


def test_with_a_path_the_job_is_written_and_not_run(tmp_path: Path) -> None:
    options = parse(to(tmp_path / "battery.jar"))
    choose.ready(options)
    assert isinstance(choose.choose(options, live=True), JarRunner)
    assert choose.only_written(options) == str(tmp_path / "battery.jar")


@pytest.mark.parametrize("flags", [[FLINK], ["--output_executable_path=/tmp/x.jar"]])
def test_otherwise_it_is_run(flags: list[str]) -> None:
    options = parse(flags)
    assert choose.only_written(options) is None
    assert not isinstance(choose.choose(options), JarRunner)


def test_a_template_is_only_written_too() -> None:
    options = parse(["--runner=DataflowRunner", "--template_location=gs://b/t"])
    assert choose.only_written(options) == "gs://b/t"


@pytest.mark.parametrize(
    ("path", "flags", "told"),
    [
        ("x.jar", ["--job_endpoint=localhost:8099"], "drop --job_endpoint"),
        ("battery", [], "must end in .jar"),
        ("/no/such/folder/x.jar", [], "there is no folder /no/such/folder; create it"),
        ("kafka://host/x.jar", [], "give a file, gs://BUCKET/NAME.jar or s3://BUCKET/NAME.jar"),
        ("s3://x.jar", [], "give a file, gs://BUCKET/NAME.jar or s3://BUCKET/NAME.jar"),
    ],
)
def test_a_place_it_can_t_go_to_is_told(path: str, flags: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        choose.ready(parse(to(path, *flags)))
    assert str(error.value).startswith(f"--output_executable_path={path}: ")
    assert told in str(error.value)


def test_a_savepoint_is_not_for_the_jar() -> None:
    with pytest.raises(ConfigError, match=r"^--savepoint_path=s3://b/1: the cluster is told"):
        choose.ready(parse(to("x.jar", "--savepoint_path=s3://b/1")))


def test_a_jar_in_a_bucket_is_never_replaced(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, s3.environment)
    client = boto3.client("s3")
    client.create_bucket(Bucket="jars")
    client.put_object(Bucket="jars", Key="flink/battery-1.jar", Body=b"one that runs")
    choose.ready(parse(to("s3://jars/flink/battery-2.jar")))
    with pytest.raises(ConfigError, match="is there already, and a cluster may run it"):
        choose.ready(parse(to("s3://jars/flink/battery-1.jar")))
    with pytest.raises(ConfigError, match=r"^--output_executable_path=s3://none: .*no bucket none"):
        choose.ready(parse(to("s3://none/battery-1.jar")))
