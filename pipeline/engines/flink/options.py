"""The flags of Beam's Flink runner, and what a live job sets where they are not given."""

from __future__ import annotations

from argparse import ArgumentParser

from apache_beam.options.pipeline_options import PipelineOptions

# A live job's checkpoints: offsets are committed as often.
_CHECKPOINT_MS = 5_000
# Beam's Flink runner keeps what a worker gave until the bundle ends. A bundle of one element costs a
# round through both processes for each batch and step; one that waits for more delays it.
_BUNDLE, _BUNDLE_MS = 1000, 100

# The options of Beam's Java side (FlinkPipelineOptions) that Beam's Python side does not name. It
# asks the job server for them, which runs only after the flags were read.
_NUMBERS = {
    "auto_watermark_interval": "ms between watermarks",
    "checkpoint_timeout_millis": "ms that a checkpoint may take",
    "checkpointing_interval": f"ms between checkpoints; {_CHECKPOINT_MS} for a live job",
    "execution_retry_delay": "ms before a failed job is started again",
    "file_input_split_max_size_m_b": "MB of a file's part",
    "latency_tracking_interval": "ms between latency marks",
    "max_bundle_size": f"elements (batches of readings) in a bundle; {_BUNDLE} for a live job",
    "max_bundle_time_mills": f"ms that a bundle may take; {_BUNDLE_MS} for a live job",
    "min_pause_between_checkpoints": "ms",
    "num_concurrent_checkpoints": "checkpoints at the same time",
    "number_of_execution_retries": "how often a failed job is started again",
    "shutdown_sources_after_idle_ms": "ms after which sources that are done are shut",
}
_TEXTS = {
    "checkpointing_mode": "EXACTLY_ONCE or AT_LEAST_ONCE",
    "execution_mode_for_batch": "PIPELINED, BATCH or another of Flink's",
    "flink_conf_dir": "folder with Flink's configuration",
    "savepoint_path": "savepoint to start from",
    "state_backend": "hashmap or rocksdb",
    "state_backend_storage_path": "where state is kept in checkpoints",
}
_SWITCHES = {
    "allow_non_restored_state": "start from a savepoint that holds more than the job needs",
    "disable_metrics": "no Beam metrics in Flink",
    "enable_stable_input_drain": "drain with steps that need stable input",
    "fail_on_checkpointing_errors": "fail where a checkpoint fails",
    "faster_copy": "don't copy elements between steps",
    "finish_bundle_before_checkpointing": "end the bundle before a checkpoint; a live job does",
    "force_unaligned_checkpoint_enabled": "unaligned checkpoints in any case",
    "object_reuse": "reuse objects between steps",
    "operator_chaining": "steps that can run together do; not those of a live job",
    "re_iterable_group_by_key_result": "groups may be read twice",
    "report_checkpoint_duration": "metric's namespace",
    "retain_externalized_checkpoints_on_cancellation": "keep checkpoints of a cancelled job",
    "unaligned_checkpoint_enabled": "unaligned checkpoints",
}


class FlinkOptions(PipelineOptions):
    """The flags of Beam's Flink runner, passed on as they are given."""

    @classmethod
    def _add_argparse_args(cls, parser: ArgumentParser) -> None:
        for name, told in _NUMBERS.items():
            parser.add_argument(f"--{name}", type=int, help=told)
        for name, told in _TEXTS.items():
            parser.add_argument(f"--{name}", help=told)
        for name, told in _SWITCHES.items():
            parser.add_argument(f"--{name}", action="store_true", default=None, help=told)


def prepare(options: PipelineOptions) -> None:
    """Sets what a live job needs and its flags don't say."""
    given = options.view_as(FlinkOptions)
    given.checkpointing_interval = given.checkpointing_interval or _CHECKPOINT_MS
    given.max_bundle_size = given.max_bundle_size or _BUNDLE
    given.max_bundle_time_mills = given.max_bundle_time_mills or _BUNDLE_MS
    # Where operators are chained depends on the parallelism, and with it the name by which a
    # savepoint knows the first one: it could not be restored with another parallelism.
    given.operator_chaining = bool(given.operator_chaining)
    # Else what a step gave during a checkpoint is kept in it by the number of the output, and
    # numbers are others whenever the job is started: it would come out where it does not belong.
    given.finish_bundle_before_checkpointing = True
