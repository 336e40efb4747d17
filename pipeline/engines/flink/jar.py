"""Writes a job as a jar, which a cluster runs without a job server: to a file here, or to a bucket."""

from __future__ import annotations

import tempfile
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    PipelineOptions,
    PortableOptions,
)
from apache_beam.runners.portability.flink_runner import FlinkRunner
from apache_beam.runners.runner import PipelineResult

from pipeline.clock import now_us
from pipeline.engines.flink.options import FlinkOptions
from pipeline.errors import ConfigError
from pipeline.shown import address
from pipeline.stores import Store, store_at

_FLAG = "--output_executable_path"
# The cluster that runs the jar, whichever that is.
_ITS_OWN = "[auto]"
_BUCKETS = ("gs://", "s3://")


def target(options: PipelineOptions) -> str | None:
    """Where the jar is to go; None if the job is to be run."""
    return options.view_as(PortableOptions).output_executable_path or None


def check(path: str, options: PipelineOptions) -> None:
    """Finds out whether the jar can be written there.

    Raises:
        ConfigError: it can't. Nor may one in a bucket be replaced: a cluster gets it again
            whenever its JobManager starts.
    """
    if options.view_as(PortableOptions).job_endpoint:
        raise ConfigError(
            f"{_FLAG}={address(path)}: the jar would be written where the job server runs; drop "
            "--job_endpoint"
        )
    if found := options.view_as(FlinkOptions).savepoint_path:
        raise ConfigError(
            f"--savepoint_path={found}: the cluster is told it when it starts the jar, not the jar; "
            "drop it"
        )
    if not path.endswith(".jar"):
        raise ConfigError(f"{_FLAG}={address(path)}: must end in .jar")
    if "://" not in path:
        folder = Path(path).absolute().parent
        if not folder.is_dir():
            raise ConfigError(f"{_FLAG}={path}: there is no folder {folder}; create it")
        return
    if not path.startswith(_BUCKETS) or path.count("/") < 3:
        raise ConfigError(
            f"{_FLAG}={address(path)}: give a file, gs://BUCKET/NAME.jar or s3://BUCKET/NAME.jar"
        )
    store, name = _place(path)
    try:
        store.check()
    except ConfigError as error:
        raise ConfigError(str(error).replace("--lake=", f"{_FLAG}=", 1)) from error
    if store.exists(name):
        raise _there(path)


def _place(path: str) -> tuple[Store, str]:
    """The store of a remote jar, and its name there."""
    folder, _, name = path.rpartition("/")
    return store_at(folder), name


def _there(path: str) -> ConfigError:
    return ConfigError(
        f"{_FLAG}={address(path)}: is there already, and a cluster may run it; give another name"
    )


class JarRunner(FlinkRunner):
    """Writes the job to the jar that its flags name, and runs nothing."""

    def run_pipeline(self, pipeline: beam.Pipeline, options: PipelineOptions) -> PipelineResult:
        """The result, once the jar is complete where it is to be."""
        options.view_as(FlinkRunnerOptions).flink_master = _ITS_OWN
        path = str(target(options))
        if "://" not in path:
            return self._written(pipeline, options)
        store, name = _place(path)
        # Beam writes to files of this machine alone.
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, name)
            options.view_as(PortableOptions).output_executable_path = str(file)
            try:
                result = self._written(pipeline, options)
            finally:
                options.view_as(PortableOptions).output_executable_path = path
            with file.open("rb") as jar:
                if not store.create_from(name, jar, now_us()) and not store.holds(name, jar):
                    raise _there(path)
        return result

    def _written(self, pipeline: beam.Pipeline, options: PipelineOptions) -> PipelineResult:
        result = super().run_pipeline(pipeline, options)
        result.wait_until_finish()
        return result
