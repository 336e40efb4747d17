"""Runs one step with state as a worker of Dataflow or Flink does: Beam's own code, state as bytes."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from apache_beam import coders
from apache_beam.internal import pickler
from apache_beam.portability.api import beam_fn_api_pb2 as fn_api
from apache_beam.portability.api import beam_runner_api_pb2 as api
from apache_beam.runners.common import DoFnRunner, Receiver
from apache_beam.runners.pipeline_context import PipelineContext
from apache_beam.runners.portability.fn_api_runner.worker_handlers import StateServicer
from apache_beam.runners.worker import bundle_processor, data_plane, sdk_worker
from apache_beam.runners.worker.statecache import StateCache
from apache_beam.transforms import userstate
from apache_beam.transforms.core import Windowing
from apache_beam.transforms.window import GlobalWindow, GlobalWindows
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Timestamp
from apache_beam.utils.windowed_value import PANE_INFO_UNKNOWN, WindowedValue

from tests.stable.graphs import Graph

_ID = "step"
_WINDOWS, _WINDOW = GlobalWindows(), GlobalWindow()
_TAGS = (None, "tails", "superseded", "ask", "cycles", "open_cycles")
_bundles = itertools.count()


class _Output(Receiver):
    """Takes what a step gives."""

    def __init__(self, taken: list[Any]) -> None:
        self._taken = taken

    def receive(self, value: WindowedValue) -> None:
        self._taken.append(value.value)


class Worker:
    """A worker that runs one step for one key.

    Args:
        graph: a job.
        name: the step's.
        key: the key.
        kept: by state its bytes, as an engine kept them; nothing for a step that begins.

    Attributes:
        fn: the step's function.
        given: by tag (None for the main one) what it has given.
    """

    def __init__(
        self, graph: Graph, name: str, key: Any, kept: Mapping[str, bytes] | None = None
    ) -> None:
        step = graph.step(name)
        self._payload = api.ParDoPayload.FromString(step.spec.payload)
        self._context = PipelineContext(graph.proto.components)
        collection = graph.proto.components.pcollections[next(iter(step.inputs.values()))]
        self.element_coder = self._context.coders.get_by_id(collection.coder_id)
        self.fn = pickler.loads(self._payload.do_fn.payload)[0]
        self.given: dict[str | None, list[Any]] = defaultdict(list)
        states, timers = userstate.get_dofn_specs(self.fn)
        self._states = {spec.name: spec for spec in states}
        self._timers = {spec.name: spec for spec in timers}
        # Beam's store of its Fn API runner, asked as a store in another process would be.
        self._store = StateServicer()
        self._key = key
        for state, data in (kept or {}).items():
            self._store.append_raw(self._state_key(state), data)

    @property
    def restriction_coder(self) -> coders.Coder:
        """Of a splittable step: of (restriction, watermark estimator's state)."""
        return self._context.coders.get_by_id(self._payload.restriction_coder_id)

    def kept(self) -> dict[str, bytes]:
        """By state its bytes."""
        found = {}
        for name in sorted(self._states):
            data, _ = self._store.get_raw(self._state_key(name))
            if data:
                found[name] = data
        return found

    def process(self, value: Any, at: Timestamp = MIN_TIMESTAMP) -> None:
        """Gives an element to the step, in a bundle of its own."""
        # As it arrives from a shuffle.
        sent = self.element_coder.encode_nested((self._key, value))
        with self._bundle() as (runner, _):
            element = self.element_coder.decode_nested(sent)
            runner.process(WindowedValue(element, at, (_WINDOW,)))

    def fire(self, timer: str, at: Timestamp = MIN_TIMESTAMP) -> None:
        """Lets a timer fire."""
        spec = self._timers[timer]
        with self._bundle() as (runner, _):
            runner.process_user_timer(spec, self._key, _WINDOW, at, PANE_INFO_UNKNOWN, "")

    @contextmanager
    def state(self, name: str) -> Iterator[Any]:
        """A state as the step is given it."""
        with self._bundle() as (_, states):
            yield states.get_state(self._states[name], self._key, _WINDOW)

    @contextmanager
    def _bundle(self) -> Iterator[tuple[DoFnRunner, bundle_processor.FnApiUserStateContext]]:
        handler = sdk_worker.GlobalCachingStateHandler(StateCache(0), self._store)
        states = bundle_processor.FnApiUserStateContext(
            handler, _ID, self.element_coder.key_coder(), _WINDOWS.get_window_coder()
        )
        for name, spec in self._payload.timer_family_specs.items():
            coder = self._context.coders.get_by_id(spec.timer_family_coder_id).get_impl()
            stream = data_plane.SizeBasedBufferingClosableOutputStream()
            states.add_timer_info(name, bundle_processor.TimerInfo(coder, stream))
        runner = DoFnRunner(
            self.fn,
            args=(),
            kwargs={},
            side_inputs=(),
            windowing=Windowing(_WINDOWS),
            tagged_receivers={tag: _Output(self.given[tag]) for tag in _TAGS},
            user_state_context=states,
        )
        with handler.process_instruction_id(str(next(_bundles)), []):
            runner.start()
            yield runner, states
            runner.finish()
            states.commit()

    def _state_key(self, name: str) -> fn_api.StateKey:
        return fn_api.StateKey(
            bag_user_state=fn_api.StateKey.BagUserState(
                transform_id=_ID,
                user_state_id=name,
                window=_WINDOWS.get_window_coder().encode(_WINDOW),
                key=self.element_coder.key_coder().encode_nested(self._key),
            )
        )
