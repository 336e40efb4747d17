"""The local runner: Beam's own for bounded input, its bundle-based one, patched here, for live."""

from pipeline.engines.properties import Engine, Finished, Stopped

ENGINE = Engine(
    name="the local runner",
    flag="--runner=DirectRunner",
    here=True,
    one_process=True,
    repeats_bundles=False,
    finished=Finished.WRITTEN,
    stopped=Stopped.BY_SOURCE,
    # A job forgets when it ends.
    keeps_state=False,
    goes_back=False,
    native_pubsub=False,
)
