"""Flags of Beam's Flink runner are passed on, and a live job gets what it needs there."""

from __future__ import annotations

import pytest

from pipeline.engines import choose
from pipeline.engines.flink.options import FlinkOptions, prepare
from pipeline.errors import ConfigError
from pipeline.options import parse


def test_flags_that_only_beams_java_side_knows_are_passed_on() -> None:
    options = parse(
        ["--runner=FlinkRunner", "--checkpointing_interval=3000", "--savepoint_path=/s/1",
         "--allow_non_restored_state"]
    )  # fmt: skip
    given = options.get_all_options(drop_default=True)
    assert given["checkpointing_interval"] == 3000
    assert given["savepoint_path"] == "/s/1"
    assert given["allow_non_restored_state"] is True


def test_a_misspelt_one_is_still_told() -> None:
    with pytest.raises(ConfigError, match="did you mean --checkpointing_interval"):
        parse(["--runner=FlinkRunner", "--checkpointing_intervall=3000"])


@pytest.mark.parametrize(
    ("flags", "interval", "size"),
    [([], 5000, 1000), (["--checkpointing_interval=700", "--max_bundle_size=3"], 700, 3)],
)
def test_a_live_job_checkpoints_and_ends_bundles_by_time(
    flags: list[str], interval: int, size: int
) -> None:
    options = parse(["--runner=FlinkRunner", *flags])
    prepare(options)
    given = options.view_as(FlinkOptions)
    assert (given.checkpointing_interval, given.max_bundle_size) == (interval, size)
    assert given.max_bundle_time_mills == 100
    # Or a savepoint would hold what only the same graph can place.
    assert given.finish_bundle_before_checkpointing is True


def test_elsewhere_they_are_not_there() -> None:
    options = parse(["--runner=PrismRunner"])
    choose.choose(options, live=True)
    given = options.get_all_options(drop_default=True)
    assert not {"checkpointing_interval", "max_bundle_size"} & given.keys()


def test_checkpoints_are_taken_one_at_a_time() -> None:
    with pytest.raises(ConfigError, match=r"--num_concurrent_checkpoints=2: .*drop it"):
        choose.ready(parse(["--runner=FlinkRunner", "--num_concurrent_checkpoints=2"]))
    choose.ready(parse(["--runner=FlinkRunner", "--num_concurrent_checkpoints=1"]))


def test_a_savepoint_needs_a_cluster() -> None:
    options = parse(["--runner=FlinkRunner", "--savepoint_path=/s/1"])
    assert choose.engine(options).restored
    with pytest.raises(ConfigError, match="give --flink_master=HOST:PORT"):
        choose.ready(options)
    assert not choose.engine(parse(["--runner=FlinkRunner"])).restored
