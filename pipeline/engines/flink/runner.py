"""Starts a job on Flink: on a cluster, behind a job endpoint, or on one in a process of its own."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import random
import re
import shutil
import socket
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)
from apache_beam.runners.portability import portable_runner
from apache_beam.runners.runner import PipelineResult, PipelineRunner, create_runner

from pipeline.engines import endpoint
from pipeline.engines.flink import ENGINE, jar
from pipeline.engines.flink.options import FlinkOptions, prepare
from pipeline.engines.flink.rest import Rest
from pipeline.engines.flink.result import FlinkResult
from pipeline.engines.properties import Engine
from pipeline.errors import ConfigError

_log = logging.getLogger(__name__)

# Where Flink looks for its configuration.
_CONF_DIR = "FLINK_CONF_DIR"
_NAMES = ("flink-conf.yaml", "config.yaml")
_HERE = ("[local]", "[auto]", "")
_PORT = re.compile(r"^\s*rest\.(?:bind-)?port: *(\d+)", re.MULTILINE)


def is_meant(_name: str) -> bool:
    """Whether `--runner` means this engine: any that none of the others knows."""
    return True


def engine(options: PipelineOptions) -> Engine:
    """The engine as these flags have it."""
    # What a jar starts from is up to whoever starts it.
    restored = bool(options.view_as(FlinkOptions).savepoint_path or jar.target(options))
    return replace(ENGINE, restored=restored)


def runner(options: PipelineOptions, live: bool) -> PipelineRunner:
    """The runner as Beam knows it by its name."""
    name = str(options.view_as(StandardOptions).runner)
    if _is_flink(name):
        if live:
            prepare(options)
        if jar.target(options):
            return jar.JarRunner()
        if _is_own(options):
            _own_cluster(options)
    return create_runner(name)


def _is_flink(name: str) -> bool:
    """Whether it is Flink, as far as can be known; a job endpoint may be anybody's."""
    return name.lower().endswith(("flinkrunner", "portablerunner"))


def check(options: PipelineOptions) -> None:
    """Raises ConfigError if the job can't be written, or be given to who is to take it."""
    if path := jar.target(options):
        jar.check(path, options)
        return
    found = options.view_as(FlinkOptions).savepoint_path
    if found and _is_own(options):
        # Beam would ignore it and not say so.
        raise ConfigError(
            f"--savepoint_path={found}: only a cluster starts from it, not a job server of the job's "
            "own; give --flink_master=HOST:PORT (its REST port)"
        )
    several = options.view_as(FlinkOptions).num_concurrent_checkpoints
    if several is not None and several > 1:
        raise ConfigError(
            f"--num_concurrent_checkpoints={several}: where several are taken at the same time, none "
            "is known to have all that was over when the one before was complete; drop it"
        )
    endpoint.answers(options)


only_written = jar.target


def followed(
    options: PipelineOptions, result: PipelineResult, stopping: Callable[[], bool]
) -> PipelineResult:
    """A live job's result, which Flink's own REST interface makes answer while the job runs."""
    name = str(options.view_as(StandardOptions).runner)
    if not _is_flink(name) or not isinstance(result, portable_runner.PipelineResult):
        return result
    # Beam's default depends on whose the cluster is.
    usual = "LOOPBACK" if _is_own(options) else "DOCKER"
    drains = (options.view_as(PortableOptions).environment_type or usual).upper() == "LOOPBACK"
    address = _rest(options)
    if address is None:
        _log.warning(
            "nobody knows where Flink itself is, so that the account stays at 0 and the job does "
            "not end after Ctrl-C; give --flink_master=HOST:PORT (its REST port), too"
        )
        return result
    # Beam's job server makes the job's name the first part of its id.
    return FlinkResult(result, Rest(address, result._job_id.rpartition("_")[0]), stopping, drains)


def _master(options: PipelineOptions) -> str:
    return str(options.view_as(FlinkRunnerOptions).flink_master or "").strip()


def _is_own(options: PipelineOptions) -> bool:
    """Whether the cluster is in the process of a job server that the job starts itself."""
    return not options.view_as(PortableOptions).job_endpoint and _master(options) in _HERE


def _free_port() -> int:
    """A port that nobody has, below those that the system gives to connections meanwhile."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise ConfigError("--runner=FlinkRunner: no free port for Flink from 20000 to 32000")


def _conf_dir(options: PipelineOptions) -> str | None:
    return options.view_as(FlinkOptions).flink_conf_dir or os.environ.get(_CONF_DIR)


def _own_cluster(options: PipelineOptions) -> None:
    """Gives the cluster in the job server's process a port at which it can be asked."""
    options.view_as(FlinkRunnerOptions).flink_master = "[local]"
    if _conf_dir(options):
        return
    port = _free_port()
    folder = Path(tempfile.mkdtemp(prefix="flink-conf-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    lines = (
        f"rest.port: {port}",
        f"rest.bind-port: {port}",
        "rest.address: 127.0.0.1",
        "rest.bind-address: 127.0.0.1",
        # In memory, which is Flink's default, a step's state may have 5 MB.
        f"state.checkpoints.dir: {(folder / 'checkpoints').as_uri()}",
        # As often are figures brought together.
        "metrics.fetcher.update-interval: 1000",
    )
    # Flink 1 knows the first name, Flink 2 the second alone.
    for name in _NAMES:
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    os.environ[_CONF_DIR] = str(folder)


def _rest(options: PipelineOptions) -> str | None:
    """The address of the cluster's REST interface, if it is known."""
    master = _master(options)
    if master not in _HERE:
        return master if "://" in master else f"http://{master}"
    folder = _conf_dir(options)
    if not _is_own(options) or not folder:
        return None
    for name in _NAMES:
        file = Path(folder) / name
        found = _PORT.search(file.read_text()) if file.is_file() else None
        if found:
            return f"http://127.0.0.1:{found[1]}"
    return None
