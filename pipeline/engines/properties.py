"""What an engine does, as the few properties that sources, sinks and the job itself may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Finished(Enum):
    """What it means for a live source that an engine has finished a bundle of its messages.

    Attributes:
        WRITTEN: every step has had it, so that the sinks can be asked whether it is durable.
        TAKEN: the engine has taken it into its memory, and loses it when it ends.
        DURABLE: the engine has made it durable.
    """

    WRITTEN = "written"
    TAKEN = "taken"
    DURABLE = "durable"


class Stopped(Enum):
    """How a live job is brought to its end.

    Attributes:
        BY_SOURCE: its source reads no further, at a signal to this process; what was read is
            written, and the job ends.
        ELSEWHERE: by a command of the engine's own: the job continues without this process.
    """

    BY_SOURCE = "by source"
    ELSEWHERE = "elsewhere"


@dataclass(frozen=True)
class Engine:
    """What a job runs on.

    Attributes:
        name: as people know it, such as `Dataflow`.
        flag: what asks for it, such as `--runner=DataflowRunner`.
        here: whether the job runs in this process and what it starts, and ends with it. A live
            source is then polled in this process, and every step of a live job runs in it.
        one_process: whether no step runs in another process, so that what a sink knows can be
            asked here; elsewhere only Beam's metrics can be.
        repeats_bundles: whether a bundle may be done again, by the same worker or another. What is
            written must be the same then, and counters may miss or repeat what it counted.
        finished: what a finished bundle means.
        stopped: how a live job is brought to its end.
        keeps_state: whether what steps remember is there when they go on after a failure.
        goes_back: whether it goes back to a checkpoint after a failure, and gives what came since
            once more: to other workers, at other moments, in other pieces.
        native_pubsub: whether it carries out Beam's own step that reads Pub/Sub.
        restored: whether this job starts from what an earlier one had kept.
        restore_flag: the flag for it.
    """

    name: str
    flag: str
    here: bool
    one_process: bool
    repeats_bundles: bool
    finished: Finished
    stopped: Stopped
    keeps_state: bool
    goes_back: bool
    native_pubsub: bool
    restored: bool = False
    restore_flag: str = ""
