"""Flink, and every other engine behind Beam's job API: it has made durable what it says it has taken."""

from pipeline.engines.properties import Engine, Finished, Stopped

ENGINE = Engine(
    name="Flink",
    flag="--runner=FlinkRunner",
    here=False,
    one_process=False,
    repeats_bundles=True,
    finished=Finished.DURABLE,
    stopped=Stopped.BY_SOURCE,
    keeps_state=True,
    goes_back=True,
    native_pubsub=False,
    restore_flag="--savepoint_path=…",
)
