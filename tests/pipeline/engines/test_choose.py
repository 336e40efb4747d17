"""Which engine `--runner` means, what is told of it, and that local ones are Beam's that we chose."""

from __future__ import annotations

import pytest
from apache_beam.options.pipeline_options import DebugOptions, PipelineOptions
from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.flink_runner import FlinkRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.portability.prism_runner import PrismRunner

from pipeline.engines import HERE, Engine, Finished, Stopped, choose
from pipeline.engines.dataflow import ENGINE as DATAFLOW
from pipeline.engines.flink import ENGINE as FLINK
from pipeline.engines.prism import ENGINE as PRISM


def options(*flags: str) -> PipelineOptions:
    return PipelineOptions(list(flags))


@pytest.mark.parametrize(
    ("name", "meant", "kind"),
    [
        (None, HERE, FnApiRunner),
        ("DirectRunner", HERE, FnApiRunner),
        ("apache_beam.runners.DirectRunner", HERE, FnApiRunner),
        ("FnApiRunner", HERE, FnApiRunner),
        ("PrismRunner", PRISM, PrismRunner),
        ("apache_beam.runners.portability.prism_runner.PrismRunner", PRISM, PrismRunner),
        ("DataflowRunner", DATAFLOW, DataflowRunner),
        ("FlinkRunner", FLINK, FlinkRunner),
        ("PortableRunner", FLINK, PortableRunner),
    ],
)
def test_a_runner_s_name_means_an_engine(name: str | None, meant: Engine, kind: type) -> None:
    given = options(*([] if name is None else [f"--runner={name}"]))
    assert choose.engine(given) == meant
    assert type(choose.choose(given)) is kind
    assert choose.name(given) == (name or "DirectRunner")


def test_live_input_gets_the_local_runner_in_which_windows_fire_meanwhile() -> None:
    assert type(choose.choose(options(), live=True)) is BundleBasedDirectRunner


def test_prism_is_not_to_cut_the_bundles_of_stateful_steps() -> None:
    given = options("--runner=PrismRunner")
    choose.choose(given)
    assert given.view_as(DebugOptions).lookup_experiment("prism_disable_sdf_split")
    other = options("--runner=FlinkRunner")
    choose.choose(other)
    assert not other.view_as(DebugOptions).lookup_experiment("prism_disable_sdf_split")


@pytest.mark.parametrize(
    ("flags", "one"),
    [
        ([], True),
        (["--direct_num_workers=2"], False),
        (["--direct_running_mode=multi_processing"], False),
        (["--runner=PrismRunner"], False),
        (["--runner=FlinkRunner"], False),
    ],
)
def test_a_job_is_in_one_process_where_no_worker_is_asked_for(flags: list[str], one: bool) -> None:
    assert choose.engine(options(*flags)).one_process is one


def test_engines_differ_by_what_sources_and_sinks_ask() -> None:
    assert [each.here for each in choose.ENGINES] == [True, False, False, False]
    assert not HERE.repeats_bundles and not HERE.keeps_state
    assert choose.those(lambda each: each.finished is Finished.DURABLE) == [DATAFLOW, FLINK]
    assert choose.those(lambda each: each.stopped is Stopped.ELSEWHERE) == [DATAFLOW]
    assert choose.those(lambda each: each.native_pubsub) == [DATAFLOW]
    # What a message offers is what it takes.
    for each in choose.ENGINES:
        assert choose.engine(options(each.flag)) == each
