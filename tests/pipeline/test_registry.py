"""The table of sources and sinks: every line means a class, and a new one is one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Self

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.metrics import Metrics

from pipeline import account, registry
from pipeline.__main__ import main
from pipeline.engines import Engine
from pipeline.engines.dataflow import ENGINE as DATAFLOW
from pipeline.errors import ConfigError
from pipeline.options import JobConfig
from pipeline.registry import SOURCES, WAREHOUSES, Line
from pipeline.sinks import Produced, Sink
from pipeline.sinks import Wanted as WantedSink
from pipeline.sinks.base.tally import Counts, Kept
from pipeline.sources import Bounded, Received, Source
from pipeline.sources import Wanted as WantedSource
from schemas.reading import READING
from tests.messages import at, messages, reading
from transforms.batch import Origin, RawBatch


class Toy(Bounded):
    """A source of `toy:ROWS`: so many readings of one cell, a second apart."""

    unit = "readings"

    def __init__(self, rows: int, name: str) -> None:
        self.total: int | None = rows
        self.name = name

    @classmethod
    def from_config(cls, wanted: WantedSource) -> Self:
        uri = wanted.config.source
        rows = uri.partition(":")[2]
        if not rows.isdigit():
            raise ConfigError(f"--source={uri}: must look like toy:5")
        return cls(int(rows), uri)

    def check(self) -> None:
        """Nothing can be missing."""

    def read(self, pipeline: beam.Pipeline) -> Received:
        batches = (
            pipeline
            | "Toy" >> beam.Create([self.total])
            | "Count" >> beam.Map(_batch, self.name).with_output_types(RawBatch)
        )
        return Received(batches, None, None)


def _batch(rows: int, name: str) -> RawBatch:
    fields = [reading(equipment_id="toy", recorded_at=at(n), record_index=n) for n in range(rows)]
    Metrics.counter(account.NAMESPACE, "read").inc(rows)
    return replace(messages(fields), origin=Origin(name))


class Pile(Sink):
    """A sink `pile:PATH`: a line with equipment and voltage for each reading."""

    def __init__(self, path: str, number: str, engine: Engine) -> None:
        self.path, self.engine = path, engine
        self.label, self.shown = f"Pile{number}", f"pile:{path}"

    @classmethod
    def from_config(cls, wanted: WantedSink) -> Self:
        return cls(wanted.uri.partition(":")[2], wanted.number, wanted.engine)

    def prepare(self) -> None:
        Path(self.path).touch()

    def write(self, produced: Produced) -> None:
        _ = produced.readings | self.label >> beam.Map(_pile, self.path, self.label)


def _pile(readings: pa.Table, path: str, label: str) -> None:
    counts = Counts(label, READING.name)
    with Path(path).open("a") as file:
        file.writelines(
            f"{equipment} {voltage}\n"
            for equipment, voltage in zip(
                readings["equipment_id"].to_pylist(), readings["voltage_v"].to_pylist(), strict=True
            )
        )
    counts.in_bundle(counts.commit(Kept(readings.num_rows)))


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for each."""
    monkeypatch.setitem(SOURCES, "toy", Line("toy:ROWS", f"{__name__}:Toy"))
    monkeypatch.setitem(WAREHOUSES, "pile", Line("pile:PATH", f"{__name__}:Pile"))


def run(*flags: str) -> int:
    return main(["--no_progress", *flags])


def test_a_new_source_and_a_new_sink_are_a_class_and_a_line_each(
    toys: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = tmp_path / "pile"
    lake = tmp_path / "lake"
    flags = [f"--warehouse=pile:{found}", f"--warehouse=PILE:{tmp_path}/other", f"--lake={lake}"]
    assert run("--source=toy:7", *flags) == 0
    assert found.read_text().splitlines() == ["toy 3.7"] * 7
    assert (tmp_path / "other").read_text() == found.read_text()
    said = capsys.readouterr().out
    assert "read 7 = written 7" in said and f"pile:{found}: stored 7" in said
    # What every source has: the raw archive, and the readings in the lake.
    assert list(lake.glob("raw/**/*.parquet")) and list(lake.glob("readings/**/*.parquet"))


def test_a_new_line_s_own_errors_and_forms_are_told(
    toys: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--source=toy:many", "--lake=none", "--warehouse=none") == 2
    assert "--source=toy:many: must look like toy:5" in capsys.readouterr().err
    assert run("--source=toys:7", "--lake=none", "--warehouse=none") == 2
    assert "pubsub://, simulator: or toy:ROWS" in capsys.readouterr().err
    assert run("--source=toy:7", "--lake=none", "--warehouse=piles:x") == 2
    assert "cassandra://HOST/KEYSPACE, pile:PATH or none" in capsys.readouterr().err


def test_a_sink_is_given_what_the_job_runs_on(toys: None) -> None:
    config = JobConfig(lake=None, warehouses=("pile:a",))
    (sink,) = registry.sinks(config, engine=DATAFLOW)
    assert isinstance(sink, Pile) and sink.engine is DATAFLOW


@pytest.mark.parametrize("scheme", SOURCES)
def test_every_line_of_a_source_means_a_class_that_builds_itself(scheme: str) -> None:
    meant = registry._class(SOURCES[scheme].means)
    for name in ("from_config", *(n for n in vars(Source) if not n.startswith("_"))):
        assert hasattr(meant, name), name
    for name in ("takes_dialects", "takes_until_latest"):
        assert isinstance(getattr(meant, name), bool)


@pytest.mark.parametrize(
    "means",
    [*(line.means for line in WAREHOUSES.values()), registry.LAKE, registry.DEAD_LETTER_TOPIC],
)
def test_every_line_of_a_sink_means_a_sink_that_builds_itself(means: str) -> None:
    meant = registry._class(means)
    assert isinstance(meant, type) and issubclass(meant, Sink) and callable(meant.from_config)


FORMS = (
    "--source=ftp:x: no source reads ftp:; give a file, folder or glob (local, gs://, s3://), "
    "kafka://, pubsub:// or simulator:"
)
LATEST = "--until=latest is for kafka:// and pubsub:// sources; drop it"


@pytest.mark.parametrize(
    ("uri", "flags", "says"),
    [
        ("ftp:x", {}, FORMS),
        ("simulator:", {"until_latest": True}, LATEST),
    ],
)
def test_what_a_source_can_t_do_is_told(uri: str, flags: dict[str, bool], says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        registry.source(JobConfig(source=uri, **flags))
    assert str(raised.value) == says
