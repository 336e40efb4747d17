"""The prediction branch of the job: Beam's RunInference with a model's file, swapped while it runs.

Nothing here stops a reading: a model that can't be read again, is slow or fails makes dead letters of
step `predict`, one for each cell and cycle that was asked about.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import math
import resource
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooSlow
from pathlib import Path
from typing import Any, Final, NamedTuple

import apache_beam as beam
import orjson
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.ml.inference import base
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.pvalue import TaggedOutput

from pipeline.errors import ConfigError
from pipeline.prediction.remaining_life import SHIPPED, RemainingLife
from pipeline.prediction.vertex import SCHEME, Endpoint
from pipeline.shown import address
from schemas.forms import arrow_schema
from schemas.reading import PREDICTION
from transforms import dead_letter
from transforms.dead_letter import DeadLetter
from transforms.life.answer import Remaining
from transforms.prediction.follow import Asked

SCHEMA = arrow_schema(PREDICTION)
DEFAULT: Final = "default"
STEP: Final = "predict"
MODEL_FAILED, MODEL_SLOW = "model_failed", "model_slow"
# A new file is looked for so often: a local one, and one that has to be fetched.
_LOOK_S = 1.0
_FETCH_S = 60.0
_MOST_TOGETHER = 1000
_log = logging.getLogger(__name__)
# Beam gives the module up where another of its imports fails, and then warns at every model.
base.resource = resource


class Given(NamedTuple):
    """What a model gave for a batch: rows of schema PREDICTION, and dead letters."""

    predictions: pa.Table
    letters: pa.Table


def path_of(model: str) -> str:
    """The file that `--model` names."""
    return str(SHIPPED) if model == DEFAULT else model


def check(model: str, limit_s: float) -> None:
    """Finds out whether a model can be used; raises ConfigError, which names file, flag and fix."""
    opened(path_of(model), limit_s)


def opened(path: str, limit_s: float) -> RemainingLife | Endpoint:
    """The model in a file, or behind an endpoint."""
    return Endpoint(path, limit_s) if path.startswith(SCHEME) else RemainingLife(path)


class Current:
    """The model as its file is now.

    Args:
        path: the file, or gs://…, s3://… or vertex://….
        limit_s: how long a batch may take.

    Raises:
        ConfigError: it can't be used.
    """

    def __init__(self, path: str, limit_s: float) -> None:
        self._path = path
        self._is_endpoint = path.startswith(SCHEME)
        self._is_remote = "://" in path
        self._seen = self._mark()
        self._looked_s = time.monotonic()
        self._model = opened(path, limit_s)
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="model")

    def _mark(self) -> tuple[int, int, int] | None:
        if self._is_remote:
            return None
        try:
            found = Path(self._path).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def model(self) -> RemainingLife | Endpoint:
        """The newest that can be used; one that can't leaves the one before in its place."""
        if self._is_endpoint:
            return self._model  # which answers with what is deployed to it
        now_s = time.monotonic()
        if now_s - self._looked_s < (_FETCH_S if self._is_remote else _LOOK_S):
            return self._model
        self._looked_s = now_s
        mark = self._mark()
        if not self._is_remote and (mark is None or mark == self._seen):
            return self._model
        self._seen = mark
        try:
            new = RemainingLife(self._path)
        except ConfigError as error:
            _log.warning("%s; predictions go on with %s", error, self._model.version)
            return self._model
        if new.version != self._model.version:
            _log.warning(
                "--model=%s: version %s takes the place of %s",
                address(self._path), new.version, self._model.version,
            )  # fmt: skip
            self._model = new
        return self._model

    def renew_pool(self) -> None:
        """Leaves a thread that hangs behind."""
        self.pool.shutdown(wait=False)
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="model")


class Handler(ModelHandler[Asked, Given, Current]):
    """Runs a model of the remaining life on many cells at once.

    Args:
        path: of its file.
        source: of the job, for dead letters.
        limit_s: how long a batch may take.
    """

    def __init__(self, path: str, source: str, limit_s: float) -> None:
        super().__init__(max_batch_size=_MOST_TOGETHER)
        self._path, self._source, self._limit_s = path, source, limit_s

    def load_model(self) -> Current:
        """Reads the file."""
        return Current(self._path, self._limit_s)

    def run_inference(
        self,
        batch: Sequence[Asked],
        model: Current,
        inference_args: dict[str, Any] | None = None,  # noqa: ARG002 - Beam's
    ) -> Iterable[Given]:
        """What the model says of each; never raises for what a model does."""
        used = model.model()
        asking = model.pool.submit(used.of, [asked.features for asked in batch])
        try:
            found = asking.result(self._limit_s)
        except TooSlow:
            model.renew_pool()
            why = f"no answer within {self._limit_s:g} s; give --model_timeout more, or another --model"
            return [_refused(batch, used, self._source, MODEL_SLOW, why)]
        except Exception as error:  # noqa: BLE001 - whatever a model's runtime raises
            text = f"{type(error).__name__}: {error}"
            return [_refused(batch, used, self._source, MODEL_FAILED, text)]
        made_at = dt.datetime.now(dt.UTC)
        rows = [
            _row(asked, said, used.card, made_at) for asked, said in zip(batch, found, strict=True)
        ]
        return [Given(pa.Table.from_pylist(rows, schema=SCHEMA), dead_letter.SCHEMA.empty_table())]

    def get_metrics_namespace(self) -> str:
        """Of Beam's own figures of inference."""
        return "predictions"


def _refused(
    batch: Sequence[Asked], used: RemainingLife | Endpoint, source: str, error_type: str, why: str
) -> Given:
    letters = [
        DeadLetter(
            step=STEP,
            error_type=error_type,
            error_message=f"model {used.card['name']} {used.version}: {why}",
            source=source,
            # Not the clock: the same question is the same letter.
            ingested_at_us=asked.ended_at_us,
            payload=orjson.dumps(
                {
                    "equipment_id": asked.equipment_id,
                    "cycle_id": asked.cycle_id,
                    "cycle_number": asked.cycle_number,
                    "soh": asked.health.soh,
                }
            ),
            position=asked.cycle_id,
            equipment_id=asked.equipment_id,
        )
        for asked in batch
    ]
    return Given(SCHEMA.empty_table(), dead_letter.table(letters))


def prediction_id(cycle_id: str, version: str) -> str:
    """The same however often a cycle is predicted by one version of a model."""
    return hashlib.blake2b(f"{cycle_id} {version}".encode(), digest_size=16).hexdigest()


def _row(
    asked: Asked, said: Remaining, card: Mapping[str, Any], made_at: dt.datetime
) -> dict[str, Any]:
    ended_at = dt.datetime.fromtimestamp(asked.ended_at_us / 1e6, dt.UTC)
    health = asked.health
    return {
        "prediction_id": prediction_id(asked.cycle_id, card["version"]),
        "equipment_id": asked.equipment_id,
        "cycle_id": asked.cycle_id,
        "cycle_number": asked.cycle_number,
        "cycle_ended_at": ended_at,
        "made_at": made_at,
        "model": card["name"],
        "model_version": card["version"],
        "soh": health.soh,
        "soh_low": health.soh_low,
        "soh_high": health.soh_high,
        "soh_method": health.method,
        "remaining_cycles": said.cycles,
        "remaining_cycles_low": said.cycles_low,
        "remaining_cycles_high": said.cycles_high,
        "threshold_soh": asked.threshold,
        "end_of_life_at": _after(ended_at, said.cycles, asked.cycle_s),
        "end_of_life_low_at": _after(ended_at, said.cycles_low, asked.cycle_s),
        "end_of_life_high_at": _after(ended_at, said.cycles_high, asked.cycle_s),
        "knee_risk": said.knee_risk,
        "out_of_domain": said.out_of_domain,
        "reasons": [*asked.reasons, *said.reasons],
    }


def _after(moment: dt.datetime, cycles: float | None, cycle_s: float) -> dt.datetime | None:
    """When so many cycles are over; None where that is not known, or beyond the calendar."""
    if cycles is None or not math.isfinite(cycles * cycle_s):
        return None
    try:
        return moment + dt.timedelta(seconds=cycles * cycle_s)
    except OverflowError:
        return None


class _Parted(beam.DoFn):
    """Tells predictions from dead letters, and counts them."""

    def __init__(self) -> None:
        self._made = Metrics.counter("predictions", "made")
        self._failed = Metrics.counter("predictions", "failed")
        self._outside = Metrics.counter("predictions", "out_of_domain")

    def process(self, given: Given) -> Iterator[Any]:
        made, failed = given
        if made.num_rows:
            self._made.inc(made.num_rows)
            self._outside.inc(sum(made.column("out_of_domain").to_pylist()))
            yield made
        if failed.num_rows:
            self._failed.inc(failed.num_rows)
            yield TaggedOutput("dead_letters", failed)


class Predict(beam.PTransform):
    """Asked → tables of schema PREDICTION; `dead_letters`: tables of schema DEAD_LETTER.

    Args:
        model: what `--model` names.
        source: of the job, for dead letters.
        limit_s: how long a batch may take.
    """

    def __init__(self, model: str, source: str, limit_s: float) -> None:
        super().__init__()
        self._handler = Handler(path_of(model), source, limit_s)

    def expand(self, asked: beam.PCollection) -> Any:
        """Adds the steps."""
        given = asked | "Model" >> RunInference(self._handler)
        step = beam.ParDo(_Parted()).with_output_types(pa.Table, dead_letters=pa.Table)
        return given | "Parted" >> step.with_outputs("dead_letters", main="predictions")
