"""The whole graph on one page."""

from __future__ import annotations

from collections.abc import Sequence

import apache_beam as beam
import pyarrow as pa

from pipeline.clock import CLOCK
from pipeline.engines import HERE, Engine
from pipeline.engines.stable import Stable
from pipeline.options import JobConfig
from pipeline.outcome import NoteDialects, NoteFiles, NotePositions
from pipeline.registry import predict
from pipeline.sinks import Produced, Sink
from pipeline.sources import Source
from pipeline.step_ids import StepIds
from transforms.cycles.memory import Kept
from transforms.decode import Decode
from transforms.enrich import Enrich, EnrichSuperseded
from transforms.order import Order
from transforms.prediction.follow import Follow, Remembered
from transforms.summarise import Summarise
from transforms.validate import Validate

# A reading waits for its window's end and for what comes out of order. After so much more it is
# written whatever event time does: the watermark's own patience is over by then.
LONGER_US = 20_000_000


def build(
    pipeline: beam.Pipeline,
    config: JobConfig,
    source: Source,
    sinks: Sequence[Sink],
    remembered: pa.Table | None = None,
    open_cycles: Kept | None = None,
    known_cells: Sequence[Remembered] = (),
    engine: Engine = HERE,
) -> Produced:
    """Adds every step to `pipeline`; returns the outputs, for tests and for whoever extends it.

    `remembered` is what an earlier run of a live job knew of its last readings, `open_cycles` what it
    knew of cycles that go on, `known_cells` of cells' health.
    Step names are stable: a running job is updated by them (tests/stable).
    """
    pipeline.component_id_map = StepIds()
    received = source.read(pipeline)
    decode = Decode(config.zone, config.day_first, config.budget, config.binary_keys)
    decoded = received.batches | "Decode" >> decode
    valid = decoded.readings | "Validate" >> Validate(config.profiles, config.launched_at_us)
    to_order = {"valid": valid.readings}
    if remembered is not None:
        to_order["remembered"] = pipeline | "Remembered" >> beam.Create([remembered])
    if config.cycles and open_cycles is not None:
        to_order["open_cycles"] = pipeline | "Open cycles" >> beam.Create([open_cycles])
    lateness = config.allowed_lateness_us
    order = Order(
        config.profiles,
        config.window_us,
        lateness,
        config.shards,
        received.leads,
        config.window_us + received.disorder_us + LONGER_US,
        CLOCK,
        config.on_conflict == "keep",
        config.cycles,
        config.model is not None,
    )
    sequenced = to_order | "Order" >> order
    ordered = sequenced.ordered
    if engine.goes_back and source.live:
        ordered = ordered | "Stable" >> Stable(config.shards, CLOCK)
    readings = ordered | "Enrich" >> Enrich()
    superseded = sequenced.superseded | "EnrichSuperseded" >> EnrichSuperseded()
    window_stats = ordered | "Summarise" >> Summarise(config.window_us)
    refused = [received.dead_letters, decoded.dead_letters, valid.dead_letters]
    predictions, cells = None, None
    if config.model is not None:
        to_follow = {"curves": sequenced.curves}
        if known_cells:
            to_follow["remembered"] = pipeline | "Known cells" >> beam.Create(known_cells)
        followed = to_follow | "Follow" >> Follow()
        said = followed.asked | "Predict" >> predict(config)
        predictions, cells = said.predictions, followed.memory
        refused.append(said.dead_letters)
    produced = Produced(
        raw=received.batches if received.files is None else None,
        files=received.files,
        readings=readings,
        window_stats=window_stats,
        tails=sequenced.tails,
        dialects=valid.dialects,
        summaries=received.summaries,
        positions=received.positions,
        superseded=superseded,
        cycles=sequenced.cycles if config.cycles else None,
        open_cycles=sequenced.open_cycles if config.cycles else None,
        predictions=predictions,
        cells=cells,
    )
    if received.positions is not None:
        _ = received.positions | "Positions read" >> beam.ParDo(NotePositions())
    _ = valid.dialects | "Doubts" >> beam.ParDo(NoteDialects())
    if received.opened is not None:
        _ = (received.opened, valid.readings, *refused[:3]) | "Files" >> NoteFiles()
    refused += [sink.write(produced) for sink in sinks]
    dead_letters = [part for part in refused if part is not None] | "Dead" >> beam.Flatten()
    for sink in sinks:
        sink.write_dead_letters(dead_letters)
    return produced
