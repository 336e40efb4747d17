"""Reduces a graph to what an update in place depends on, as readable JSON.

An update gives a running job's state to a new graph. What has to match, by engine:

**Dataflow** (by its documentation and Beam's code; it can't be asked from here) compares the new
graph with the running one and refuses it otherwise. Steps are matched by their full name
(`Order/InOrder/ParDo(_OrderUnbounded)`: where a step has no label, Beam takes its class's name). A
step that is gone or renamed needs `--transform_name_mapping`. Coders, side inputs and windows of
what is buffered (reads, groupings, steps with state or timers) must be the same. A coder is known
by its class and its `version_tag()`, never by the bytes that it writes.

**Flink** matches operators by their uid, which Beam's portable runner makes of the *input* of a
fused stage, not of its steps: the name of the step before, the output's tag and the environment's
kind (`14Order/ToShards.None/beam:env:external:v1:0`). So the step before one that keeps something
must not be renamed, nor another one be put between, and a savepoint of a job with
`--environment_type=EXTERNAL` is no use with DOCKER. Where an operator of the savepoint is missing,
Flink refuses it, or with `--allow_non_restored_state` drops what it held; it is missed even if it
kept nothing. State is kept by its name as bytes that Flink doesn't look into, under the encoded key
and window; a timer under its name and its step's id (`pipeline.step_ids`), and one without a step
fails the job when it fires. A splittable step keeps what is left to read: element, restriction and
watermark estimator's state. Groupings inside Beam's Reshuffle are Flink's own and keep nothing. An
Impulse has no uid: Flink tells several of them apart by their place alone. What a bundle gave while
a checkpoint was made would be kept under a number that another graph counts otherwise; a live job
has bundles end before (`pipeline.engines.flink.options`).

Left out is all that may change: pickled code, ids and the order of steps, environments. What no
graph shows is told in deploy/RUNBOOK.md: state and timers were set by `--window`, `--shards` and
`--allowed_lateness`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apache_beam import coders
from apache_beam.portability import common_urns, python_urns
from apache_beam.portability.api import beam_runner_api_pb2 as api
from google.protobuf import wrappers_pb2

from tests.stable.graphs import FLINK, Graph

# Kinds of steps that an engine keeps something for.
STATEFUL, SPLITTABLE, GROUPING, READ = "stateful", "splittable", "grouping", "read"

Fingerprint = dict[str, Any]

_PARDO = common_urns.primitives.PAR_DO.urn
_GROUP = common_urns.primitives.GROUP_BY_KEY.urn
_IMPULSE = common_urns.primitives.IMPULSE.urn
_RESHUFFLE = common_urns.composites.RESHUFFLE.urn
# Fused stages begin behind them.
_READS = (common_urns.composites.PUBSUB_READ.urn, common_urns.deprecated_primitives.READ.urn)
_SPLIT = "/SplitAndSize"


def fingerprint(graph: Graph) -> Fingerprint:
    """What an update depends on.

    Returns:
        `engine` and `flags`; `keeps`: by name the steps that the engine keeps something for, each
        with its kind, its coders, windows, states and timers; `others`: the names of the other
        steps; `impulses`: where the graph begins; of Flink `operators`: the fused stages that keep
        nothing, as uids have them.
    """
    steps = _Steps(graph)
    keeps = {step.unique_name: steps.kept(step) for step in steps.all if steps.kind(step)}
    found: Fingerprint = {
        "engine": graph.engine,
        "flags": list(graph.flags),
        "impulses": sorted(step.unique_name for step in steps.all if step.spec.urn == _IMPULSE),
        "keeps": keeps,
        "others": sorted(
            step.unique_name
            for step in steps.all
            if step.unique_name not in keeps and step.spec.urn != _IMPULSE
        ),
    }
    if graph.engine == FLINK:
        known = {each["operator"] for each in keeps.values()}
        found["operators"] = sorted(set(steps.operators()) - known)
    return found


def coder_text(components: Any, coder_id: str) -> str:
    """A coder and those that it is made of, such as `kv(varint, PackedBatchCoder)`."""
    proto = components.coders[coder_id]
    if proto.spec.urn == python_urns.PICKLED_CODER:
        pickled = wrappers_pb2.BytesValue.FromString(proto.spec.payload).value
        coder = coders.coders.deserialize_coder(pickled)
        return ":".join(filter(None, (type(coder).__name__, coder.version_tag())))
    name = proto.spec.urn.split(":")[2]
    if proto.spec.payload:
        name += f"[{proto.spec.payload.hex()}]"
    parts = ", ".join(coder_text(components, each) for each in proto.component_coder_ids)
    return f"{name}({parts})" if parts else name


def key_of(coder: str) -> str:
    """The key's coder of `kv(KEY, VALUE)`; the whole text of another one."""
    depth = 0
    inner = coder.removeprefix("kv(")
    for at, letter in enumerate(inner):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and not depth and inner != coder:
            return inner[:at]
    return coder


class _Steps:
    """The steps of a graph that an engine runs, without those that only hold others."""

    def __init__(self, graph: Graph) -> None:
        self._engine = graph.engine
        self._components = graph.proto.components
        transforms = self._components.transforms
        # Flink has a Reshuffle of its own, which stands for all within.
        shuffles = transforms.values() if graph.engine == FLINK else ()
        self._whole = {step.unique_name for step in shuffles if step.spec.urn == _RESHUFFLE}
        self._ids = {step.unique_name: key for key, step in transforms.items()}
        self.all = [step for step in transforms.values() if self._runs(step)]
        self._producers = {each: step for step in self.all for each in step.outputs.values()}

    def _runs(self, step: Any) -> bool:
        """Whether an engine runs it as one: it holds no others, and does not only hand on."""
        name = step.unique_name
        if any(name.startswith(f"{whole}/") for whole in self._whole):
            return False
        handed_on = step.outputs and set(step.outputs.values()) <= set(step.inputs.values())
        return name in self._whole or not (step.subtransforms or handed_on)

    def _payload(self, step: Any) -> Any:
        given = step.spec.payload if step.spec.urn == _PARDO else b""
        return api.ParDoPayload.FromString(given)

    def kind(self, step: Any) -> str | None:
        """For what the engine keeps something; None if it does not."""
        payload = self._payload(step)
        if payload.restriction_coder_id:
            return SPLITTABLE
        if payload.state_specs or payload.timer_family_specs or payload.side_inputs:
            return STATEFUL
        if step.spec.urn == _GROUP:
            return GROUPING
        return READ if step.spec.urn in _READS else None

    def kept(self, step: Any) -> dict[str, Any]:
        """What has to match."""
        payload, kind = self._payload(step), self.kind(step)
        of = self._main(step) if kind != READ else next(iter(step.outputs.values()))
        collection = self._components.pcollections[of]
        found: dict[str, Any] = {
            "kind": kind,
            "elements": self._coder(collection.coder_id),
            "windows": self._windows(collection.windowing_strategy_id),
        }
        if payload.restriction_coder_id:
            found["restriction"] = self._coder(payload.restriction_coder_id)
        if payload.side_inputs:
            found["side_inputs"] = sorted(payload.side_inputs)
        if payload.state_specs:
            found["states"] = {name: self._state(s) for name, s in payload.state_specs.items()}
        if payload.timer_family_specs:
            found["timers"] = {
                name: _domain(spec.time_domain) for name, spec in payload.timer_family_specs.items()
            }
        if self._engine == FLINK:
            found["operator"] = self._operator(step)
            if payload.timer_family_specs:
                found["timers_of"] = self._ids[step.unique_name]
        return found

    def _main(self, step: Any) -> str:
        sides = self._payload(step).side_inputs
        return next(each for name, each in step.inputs.items() if name not in sides)

    def _operator(self, step: Any) -> str:
        """The beginning of its uid: the input of the fused stage that it begins."""
        kind = self.kind(step)
        if kind in (GROUPING, READ):
            return str(step.unique_name)
        name = str(self._components.pcollections[self._main(step)].unique_name)
        return name + _SPLIT if kind == SPLITTABLE else name

    def operators(self) -> Iterator[str]:
        """Those of all fused stages.

        A stage begins at a step that keeps something, and behind whatever the engine runs itself.
        """
        for step in self.all:
            if self.kind(step):
                yield self._operator(step)
            for each in step.inputs.values():
                producer = self._producers[each]
                if step.spec.urn not in (_RESHUFFLE, common_urns.primitives.FLATTEN.urn) and (
                    producer.spec.urn in (_IMPULSE, _GROUP, _RESHUFFLE, *_READS)
                ):
                    yield str(self._components.pcollections[each].unique_name)

    def _coder(self, coder_id: str) -> str:
        return coder_text(self._components, coder_id)

    def _state(self, spec: Any) -> str:
        kind = spec.WhichOneof("spec")
        inner = getattr(spec, kind)
        ids = [getattr(inner, field.name) for field in inner.DESCRIPTOR.fields
               if field.name.endswith("coder_id")]  # fmt: skip
        name = kind.removesuffix("_spec").replace("_", " ")
        return f"{name} of {', '.join(self._coder(each) for each in ids)}"

    def _windows(self, strategy_id: str) -> str:
        strategy = self._components.windowing_strategies[strategy_id]
        name = strategy.window_fn.urn.split(":")[2]
        trigger = strategy.trigger.WhichOneof("trigger")
        mode = api.AccumulationMode.Enum.Name(strategy.accumulation_mode).lower()
        late = f", lateness {strategy.allowed_lateness} ms" if strategy.allowed_lateness else ""
        return f"{name}, trigger {trigger}, {mode}{late}"


def _domain(number: int) -> str:
    return str(api.TimeDomain.Enum.Name(number)).lower().replace("_", " ")
