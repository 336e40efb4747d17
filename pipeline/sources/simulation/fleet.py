"""Put a fleet together: its equipments, how much they send, and their messages block by block."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.sources.simulation import arrival, draws, faults
from pipeline.sources.simulation.arrays import Codes, Hashes, Ints
from pipeline.sources.simulation.cell_model import CYCLES_PER_TEST
from pipeline.sources.simulation.cells import Cells
from pipeline.sources.simulation.config import FleetConfig
from pipeline.sources.simulation.machines import CYCLE_S, Machines
from pipeline.sources.simulation.parts import CHUNK, Block, Chunk, Messages
from pipeline.sources.simulation.step_cells import StepCells
from pipeline.sources.simulation.text import Text, test_names


class Fleet:
    """The simulated fleet: cells 0 … c - 1, then machines."""

    def __init__(self, config: FleetConfig) -> None:
        self.config = config
        numbers = np.arange(config.equipment, dtype=np.uint64)
        seed = np.full(1, config.seed, np.uint64)
        self.keys: Hashes = draws.mix(draws.mix(seed + draws.SALT["fleet"]) ^ draws.mix(numbers))
        self._cells = (StepCells if config.in_steps else Cells)(config, self.keys)
        self._machines = Machines(config, self.keys)

    @cached_property
    def counts(self) -> Ints:
        """Readings of each equipment, (equipment,).

        Free when `readings` is given; else every cell's cycles are planned without their
        readings, about 2 ms per cell of 500 cycles (in steps: run, 0.1 to 1.5 s).
        """
        config = self.config
        if config.readings is not None:
            share, rest = divmod(config.readings, config.equipment)
            return share + (np.arange(config.equipment) < rest).astype(np.int64)
        counts = np.full(config.equipment, self._machines.count, np.int64)
        counts[: config.cell_count] = self._cells.counts()
        return counts

    @property
    def total(self) -> int:
        """Number of messages, exactly; for its cost see `counts`."""
        again = arrival.sent_twice(self.counts, self.config.duplicates, self.keys)
        return int(self.counts.sum() + again.sum())

    @property
    def ends_at_us(self) -> int:
        """About when the last reading is recorded (from an average cell), µs since 1970 UTC."""
        config = self.config
        cycles: float = config.cycles
        if config.readings is not None:
            each = -(-config.readings // config.equipment)
            cycles = each / float(self._cells.cycle_rows)
            machines = each * config.interval
        else:
            machines = cycles * CYCLE_S
        cells = cycles * (self._cells.cycle_ms / 1000.0)
        cells += cycles / CYCLES_PER_TEST * 13 * 3600.0
        longest = max(cells if config.cell_count else 0.0, machines if config.machine_count else 0)
        return config.start_ms * 1000 + round(longest * 1e6)

    def blocks(self, size: int) -> list[Block]:
        """Cuts the fleet into blocks of about `size` readings, whole equipments each.

        A block holds one equipment of any length, or a group of at most CHUNK readings.
        """
        config = self.config
        cells = config.cell_count
        if config.readings is not None:
            cell_rows = machine_rows = -(-config.readings // config.equipment)
        else:
            cell_rows = config.cycles * self._cells.cycle_rows
            machine_rows = self._machines.count
        blocks = []
        for low, high, each in (
            (0, cells, cell_rows),
            (cells, config.equipment, machine_rows),
        ):
            step = max(1, min(size, CHUNK) // max(each, 1))
            blocks += [Block(first, min(high, first + step)) for first in range(low, high, step)]
        return blocks

    def columns(self, block: Block, batch_size: int = 20_000) -> Iterator[dict[str, NDArray[Any]]]:
        """The block's readings as columns, in event order per equipment, without faults.

        Numbers are float64 (or int64 where whole) with the values of the JSON text;
        `recorded_at_us` is int64, `equipment_id` and `test_id` are byte strings.
        """
        decimals = self._those(block).kind.columns
        names = self._names(block)
        for chunk in self._chunks(block, healthy=True):
            out: dict[str, NDArray[Any]] = {
                "equipment_id": names[chunk.equipment - block.first],
                "recorded_at_us": chunk.recorded_ms * 1000,
            }
            if chunk.test is not None:
                low = int(chunk.test.min())
                suffix = test_names(low, int(chunk.test.max()))[chunk.test - low]
                out["test_id"] = np.strings.add(out["equipment_id"], suffix)
            for name, digits in decimals.items():
                values = chunk.columns[name]
                out[name] = values / 10.0**digits if digits else values
            n = chunk.equipment.size
            for low in range(0, n, batch_size):
                yield {name: values[low : low + batch_size] for name, values in out.items()}

    def messages(self, block: Block, batch_size: int = 20_000) -> Iterator[Messages]:
        """The block's messages in order of arrival, `batch_size` at a time.

        Holds one chunk and the readings that are still on their way.
        """
        offset, pending = 0, arrival.Pending.empty()
        names = self._names(block)
        text = Text(self._those(block).kind, names)
        keys = names.astype(object)
        for chunk in self._chunks(block):
            pending.add(*self._send(chunk, text, keys[chunk.equipment - block.first].tolist()))
            # Whatever is recorded later also arrives later than this chunk's last event time.
            horizon = None if block.stop - block.first > 1 else int(chunk.recorded_ms[-1]) * 1000
            pending.settle(horizon)
            while pending.settled >= batch_size:
                yield pending.take(batch_size, block.partition, offset)
                offset += batch_size
        pending.settle(None)
        while pending.settled:
            taken = pending.take(min(batch_size, pending.settled), block.partition, offset)
            offset += len(taken.payloads)
            yield taken

    def cell_names(self) -> list[str]:
        """Equipment ids of all cells."""
        cells = self.config.cell_count
        return [name.decode() for name in self._names(Block(0, cells)).tolist()] if cells else []

    def _those(self, block: Block) -> Cells | StepCells | Machines:
        """The equipments to which the block's belong."""
        return self._cells if block.first < self.config.cell_count else self._machines

    def _names(self, block: Block) -> NDArray[np.bytes_]:
        """Equipment ids of a block, all equally long within the fleet."""
        cells = self.config.cell_count
        width = max(3, len(str(self.config.equipment)))
        kind = self._those(block).kind
        base = 0 if kind.tests else cells
        return np.array(
            [f"sim_{kind.short}_{e - base + 1:0{width}d}" for e in range(block.first, block.stop)],
            "S",
        )

    def _chunks(self, block: Block, healthy: bool = False) -> Iterator[Chunk]:
        config = self.config
        wanted = None if config.readings is None else self.counts[block.first : block.stop]
        return self._those(block).chunks(block, wanted, 0.0 if healthy else config.faults)

    def _send(
        self, chunk: Chunk, text: Text, keys: list[bytes]
    ) -> tuple[list[bytes], list[bytes], Ints, Codes]:
        """Turns readings into messages: text, faults, delays and second copies."""
        config = self.config
        arrived_us = chunk.recorded_ms * 1000 + arrival.delays_us(config, chunk.noise)
        payloads = text.encode(chunk, arrived_us // 1000)
        codes = chunk.fault
        if config.faults:
            codes = faults.spoil(payloads, chunk, text.kind)
        if config.duplicates:
            own = self.keys[chunk.equipment]
            twice, later_us = arrival.second_copies(chunk, config.duplicates, own)
            arrived_us = np.concatenate((arrived_us, arrived_us[twice] + later_us))
            codes = np.concatenate((codes, codes[twice]))
            payloads += [payloads[i] for i in twice.tolist()]
            keys = keys + [keys[i] for i in twice.tolist()]
        return payloads, keys, arrived_us, codes
