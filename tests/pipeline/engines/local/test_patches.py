"""What the mendings mend, and that Beam still needs it: what it does by itself is shown too."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam import coders
from apache_beam.metrics import Metrics
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct import executor, transform_evaluator
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.testing import test_stream
from apache_beam.transforms import userstate
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

from pipeline.engines.local import patches

MANY, FEW = 12, 4

_happened: Counter[str] = Counter()


class Counts(beam.DoFn):
    """Counts what it sees, also at the end of a bundle."""

    def __init__(self, name: str) -> None:
        self._seen = Metrics.counter("mended", f"{name}_seen")
        self._ended = Metrics.counter("mended", f"{name}_ended")
        self._values = Metrics.distribution("mended", f"{name}_values")

    def process(self, element: tuple[int, int]) -> Iterator[tuple[int, int]]:
        self._seen.inc()
        self._values.update(element[1])
        yield element

    def finish_bundle(self) -> None:
        self._ended.inc()


class Opens(beam.DoFn):
    """Opens something costly once, as a sink does."""

    def __init__(self) -> None:
        self._opened: object | None = None

    def __reduce__(self) -> Any:
        _happened["pickled"] += 1
        return Opens, ()

    def setup(self) -> None:
        if self._opened is None:
            _happened["opened"] += 1
            self._opened = object()

    def process(self, element: tuple[int, int]) -> Iterator[tuple[int, int]]:
        yield element


class Remembers(beam.DoFn):
    """Keeps a sum, and notes whenever its methods are looked through."""

    SUM = ReadModifyWriteStateSpec("sum", coders.VarIntCoder())

    def __dir__(self) -> list[str]:
        _happened["inspected"] += 1
        return list(super().__dir__())

    def process(  # type: ignore[no-untyped-def]
        self, element: tuple[int, int], total=beam.DoFn.StateParam(SUM)
    ) -> None:
        total.write((total.read() or 0) + element[1])
        _happened["sum"] = total.read()


def bundles(count: int) -> dict[str, Any]:
    """Runs so many bundles of one element each; what was counted and what happened."""
    _happened.clear()
    stream = test_stream.TestStream(coder=coders.FastPrimitivesCoder())
    for number in range(count):
        stream.add_elements([(0, number)])
    pipeline = beam.Pipeline(
        runner=BundleBasedDirectRunner(), options=PipelineOptions(["--streaming"])
    )
    elements = pipeline | stream.advance_watermark_to_infinity()
    elements |= beam.Map(tuple).with_output_types(tuple[int, int])
    for name in ("one", "two"):
        elements |= name >> beam.ParDo(Counts(name)).with_output_types(tuple[int, int])
    elements |= beam.ParDo(Opens()).with_output_types(tuple[int, int])
    _ = elements | beam.ParDo(Remembers())
    result = pipeline.run()
    result.wait_until_finish()
    found = result.metrics().query(MetricsFilter().with_namespace("mended"))
    counted = {counter.key.metric.name: counter.committed for counter in found["counters"]}
    for distribution in found["distributions"]:
        name, values = distribution.key.metric.name, distribution.committed
        counted[name] = [values.count, values.sum, values.min, values.max]
    return counted | {name: _happened[name] for name in ("pickled", "opened", "inspected", "sum")}


@pytest.fixture(scope="module")
def by_itself() -> dict[str, dict[str, Any]]:
    """What Beam does, in a process where nothing is mended."""
    code = (
        "import json; from tests.pipeline.engines.local.test_patches import FEW, MANY, bundles; "
        "print(json.dumps({'few': bundles(FEW), 'many': bundles(MANY)}))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[4],
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, dict[str, Any]] = json.loads(ran.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def mended() -> dict[str, dict[str, Any]]:
    patches.install()
    return {"few": bundles(FEW), "many": bundles(MANY)}


def test_counters_see_every_bundle(mended: Any) -> None:
    for found, count in ((mended["few"], FEW), (mended["many"], MANY)):  # each run its own
        for name in ("one", "two"):
            assert found[f"{name}_seen"] == count
            # Beam's end of input comes through every step as a bundle or as none.
            assert found[f"{name}_ended"] == count
            assert found[f"{name}_values"] == [count, sum(range(count)), 0, count - 1]


def test_without_the_mending_counters_see_the_first_bundle_alone(by_itself: Any) -> None:
    assert by_itself["many"]["one_seen"] == by_itself["many"]["two_seen"] == 1, (
        "Beam counts every bundle now: drop patches._metrics"
    )


def test_what_a_step_opened_lasts_as_long_as_the_step(mended: Any) -> None:
    for found in mended.values():
        assert found["opened"] == 1


def test_a_step_is_pickled_once_and_not_for_every_bundle(mended: Any) -> None:
    assert mended["many"]["pickled"] == mended["few"]["pickled"]


def test_without_the_mending_every_bundle_has_a_step_of_its_own(by_itself: Any) -> None:
    many, few = by_itself["many"], by_itself["few"]
    assert many["opened"] >= MANY and many["pickled"] - few["pickled"] >= MANY - FEW, (
        "Beam keeps a step's DoFn now: drop patches._PickledOnce"
    )


def test_a_step_is_looked_through_once_per_run(mended: Any) -> None:
    assert mended["many"]["inspected"] <= mended["few"]["inspected"]


def test_without_the_mending_every_bundle_is_looked_through(by_itself: Any) -> None:
    assert by_itself["many"]["inspected"] - by_itself["few"]["inspected"] >= 3 * (MANY - FEW), (
        "Beam looks a DoFn through once now: drop patches._inspect_once"
    )


def test_state_is_kept_all_the_same(mended: Any, by_itself: Any) -> None:
    assert mended["many"]["sum"] == by_itself["many"]["sum"] == sum(range(MANY))


def test_two_steps_of_one_kind_are_two() -> None:
    patches.install()
    once = patches._PickledOnce()
    one, two = Counts("one"), Counts("two")
    copy = once.roundtrip(one)
    assert copy is not one and once.roundtrip(one) is copy
    assert once.roundtrip(two) is not copy
    assert once.roundtrip(two)._seen.metric_name.name == "two_seen"


class Doubled(beam.DoFn):
    """One state, taken twice."""

    SUM = ReadModifyWriteStateSpec("sum", coders.VarIntCoder())

    def process(  # type: ignore[no-untyped-def]
        self, element: Any, one=beam.DoFn.StateParam(SUM), other=beam.DoFn.StateParam(SUM)
    ) -> None:
        pass


def test_a_wrong_step_is_refused_as_often_as_it_is_looked_at() -> None:
    patches.install()
    for _ in range(2):
        with pytest.raises(ValueError, match="duplicate process method parameters"):
            userstate.validate_stateful_dofn(Doubled())
    userstate.validate_stateful_dofn(Remembers())
    states, timers = userstate.get_dofn_specs(Remembers())
    assert ({state.name for state in states}, timers) == ({"sum"}, set())


def parts() -> list[Any]:
    return [
        executor.MetricsContainer,
        transform_evaluator.pickler,
        transform_evaluator.get_dofn_specs,
        userstate.get_dofn_specs,
        userstate.validate_stateful_dofn,
    ]


def test_it_is_put_right_once() -> None:
    patches.install()
    before = parts()
    patches.install()
    assert parts() == before


def test_another_version_of_beam_is_refused(monkeypatch: Any) -> None:
    before = parts()
    monkeypatch.setattr(beam, "__version__", "2.78.0")
    with pytest.raises(
        RuntimeError, match=r"made for Beam 2\.77\.0, this is 2\.78\.0; .* \(make install\)"
    ):
        patches.install()
    assert parts() == before
