"""Simulate a fleet of battery cells and machines as the messages a live gateway would send.

Everything follows from (seed, equipment, position of the reading): random numbers are hashes of
these three, never a stream, so that neither block nor batch size nor the number of workers can
change a reading. The physics of cells is in `cell_model`; here are the machines, the noise, the
faults, the order of arrival and the JSON text.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from operator import itemgetter
from statistics import NormalDist
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.sources import cell_model
from pipeline.sources.cell_model import CYCLES_PER_TEST, CellPlan, CellSpread, Floats, Ints

Hashes = NDArray[np.uint64]

CHUNK: Final = 32_768  # readings held at once for one equipment; also the most a block groups
_CYCLES: Final = 10 * CYCLES_PER_TEST  # cycles of a cell planned at once
_MACHINE_CYCLE_S: Final = 14_400.0  # a machine runs as long as a cell takes for its cycles
_STUCK: Final = 15  # readings of a stuck sensor: 10 in a row are the usual rule
_SLICE: Final = 1024  # rows formatted at once: their text stays in the processor's cache

Expected = Literal["reject", "flag"]


@dataclass(frozen=True)
class Fault:
    """A kind of faulty reading and what validation must do with it under the generic profiles."""

    name: str
    expected: Expected
    cells: bool = True
    machines: bool = True


FAULTS: Final = (
    Fault("truncated_json", "reject"),
    Fault("wrong_type", "reject"),
    Fault("missing_field", "reject"),
    Fault("nan_literal", "reject"),
    Fault("voltage_out_of_range", "reject"),
    Fault("negative_counter", "reject", machines=False),
    Fault("negative_frequency", "reject", cells=False),
    Fault("bad_timestamp", "reject"),
    Fault("future_timestamp", "reject"),
    Fault("bad_utf8", "reject"),
    Fault("voltage_above_limit", "flag", machines=False),
    Fault("voltage_below_limit", "flag", machines=False),
    Fault("frequency_off", "flag", cells=False),
    # A run of 15 readings in the CC charge (fewer where the data ends): flagged from the tenth on.
    Fault("stuck_sensor", "flag", machines=False),
)
_CODES: Final = {fault.name: code for code, fault in enumerate(FAULTS, start=1)}
_STUCK_CODE: Final = _CODES["stuck_sensor"]


@dataclass(frozen=True)
class FleetConfig:
    """What is simulated; every field is a parameter of `simulator:?name=value&…`.

    Attributes:
        equipment: equipments in the fleet; cells first, then machines.
        machines: how many of them are machines; None for a quarter.
        cycles: charge-discharge cycles of each cell; machines run 4 h per cycle. The default lets
            most cells reach 80 % of their nominal capacity.
        interval: seconds between readings; cells add one at every change of step.
        readings: readings of the whole fleet, spread evenly; then `cycles` sets no limit.
        seed: another seed is another fleet.
        start: event time of the first reading; the others start within one interval.
        faults: share of readings that are faulty (see FAULTS), 0 to 1.
        late: share of readings that arrive 3 to 60 intervals late, 0 to 1.
        duplicates: share of messages that are sent twice, 0 to 1.
        nominal_ah: nominal capacity of every cell in Ah.
        temperature: mean temperature of the surroundings in degrees C.
    """

    equipment: int = 8
    machines: int | None = None
    cycles: int = 500
    interval: float = 60.0
    readings: int | None = None
    seed: int = 1
    start: str = "2024-01-01T00:00:00Z"
    faults: float = 0.0
    late: float = 0.0
    duplicates: float = 0.0
    nominal_ah: float = 2.0
    temperature: float = 25.0

    def __post_init__(self) -> None:
        self._within("equipment", 1, 10_000_000)
        if self.machines is not None:
            self._within("machines", 0, self.equipment)
        self._within("cycles", 1, 100_000)
        self._within("interval", 0.1, 3600.0)
        if self.readings is not None:
            self._within("readings", 1, 10**12)
        self._within("seed", 0, 2**63 - 1)
        for share in ("faults", "late", "duplicates"):
            self._within(share, 0.0, 1.0)
        self._within("nominal_ah", 0.1, 500.0)
        self._within("temperature", -20.0, 60.0)
        if not 1970 <= _instant(self.start).year <= 2100:
            raise _wrong("start", self.start, "a time between 1970 and 2100")

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> FleetConfig:
        """Reads a URI's parameters; raises ConfigError naming the parameter and the fix."""
        kinds: dict[str, Callable[[str], Any]] = {
            f.name: str if f.name == "start" else float if f.type == "float" else int
            for f in fields(cls)
        }
        values: dict[str, Any] = {}
        for name, text in parameters.items():
            if name not in kinds:
                near = difflib.get_close_matches(name, kinds, 1)
                hint = f"did you mean '{near[0]}'? " if near else ""
                raise ConfigError(
                    f"--source=simulator: has no parameter '{name}'; {hint}"
                    f"valid are {', '.join(kinds)}"
                )
            kind = kinds[name]
            try:
                values[name] = kind(text)
            except ValueError:
                what = "a whole number" if kind is int else "a number"
                raise _wrong(name, text, what) from None
        return cls(**values)

    @property
    def machine_count(self) -> int:
        """How many of the equipments are machines."""
        return self.equipment // 4 if self.machines is None else self.machines

    @property
    def cell_count(self) -> int:
        """How many of the equipments are battery cells; they are numbered first."""
        return self.equipment - self.machine_count

    @property
    def start_ms(self) -> int:
        """Event time of the first reading, milliseconds since 1970 UTC."""
        return round(_instant(self.start).timestamp() * 1000.0)

    def _within(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not low <= value <= high:
            raise _wrong(name, value, f"between {low:,} and {high:,}")


def _instant(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _wrong("start", text, "an ISO 8601 time") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _wrong(name: str, value: object, wanted: str) -> ConfigError:
    default = next(f.default for f in fields(FleetConfig) if f.name == name)
    example = {"readings": 100_000, "machines": 2}.get(name, default)
    return ConfigError(
        f"--source=simulator: parameter '{name}' must be {wanted}, not '{value}'; "
        f"for example simulator:?{name}={example}"
    )


@dataclass(frozen=True)
class Block:
    """A part of the fleet that can be simulated alone: equipments first … stop - 1, one kind."""

    first: int
    stop: int

    @property
    def partition(self) -> str:
        """Name of the block's sequence of messages; offsets count within it."""
        return f"{self.first}-{self.stop - 1}"


@dataclass(frozen=True)
class Messages:
    """Consecutive messages of one block in order of arrival, as the gateway sent them.

    Attributes:
        payloads: JSON text, one object each (unless faulty).
        keys: equipment ids.
        arrived_at_us: (n,) arrival, microseconds since 1970 UTC, never falling within a block.
        partition: the block's name.
        offset: position of the first message within the block.
        faults: (n,) 0 for a healthy message, else c for `FAULTS[c - 1]`; for tests.
    """

    payloads: list[bytes]
    keys: list[bytes]
    arrived_at_us: Ints
    partition: str
    offset: int
    faults: NDArray[np.int8]


@dataclass(frozen=True)
class _Chunk:
    """Readings in event order per equipment; every array is (n,).

    `columns` holds whole numbers in units of 10**-DECIMALS; `fault` codes as in Messages;
    `chance` the probability of a fault outside stuck runs.
    """

    equipment: Ints
    reading: Ints
    recorded_ms: Ints
    noise: Hashes
    columns: dict[str, Ints]
    test: Ints | None
    fault: NDArray[np.int8]
    chance: Floats | float


# Columns with their decimals, in the order in which they are sent.
CELL_COLUMNS: Final = {
    "record_index": 0,
    "test_time_s": 3,
    "step_time_s": 3,
    "cycle_index": 0,
    "step_index": 0,
    "voltage_v": 4,
    "current_a": 4,
    "charge_capacity_ah": 6,
    "discharge_capacity_ah": 6,
    "charge_energy_wh": 6,
    "discharge_energy_wh": 6,
    "internal_resistance_ohm": 6,
    "temperature_c": 2,
    "ambient_temperature_c": 2,
}
MACHINE_COLUMNS: Final = {
    "voltage_v": 2,
    "current_a": 3,
    "frequency_hz": 3,
    "temperature_c": 2,
}


class Fleet:
    """The simulated fleet: cells 0 … c - 1, then machines."""

    def __init__(self, config: FleetConfig) -> None:
        self.config = config
        numbers = np.arange(config.equipment, dtype=np.uint64)
        seed = np.full(1, config.seed, np.uint64)
        self._keys: Hashes = _mix(_mix(seed + _SALT[0]) ^ _mix(numbers))

    @cached_property
    def counts(self) -> Ints:
        """Readings of each equipment, (equipment,).

        Free when `readings` is given; else every cell's cycles are planned without their
        readings, about 2 ms per cell of 500 cycles.
        """
        config = self.config
        if config.readings is not None:
            share, rest = divmod(config.readings, config.equipment)
            return share + (np.arange(config.equipment) < rest).astype(np.int64)
        counts = np.full(
            config.equipment,
            max(1, round(config.cycles * _MACHINE_CYCLE_S / config.interval)),
            np.int64,
        )
        cells = config.cell_count
        counts[:cells] = 0
        at_once = max(1, CHUNK // min(config.cycles, _CYCLES))
        for first in range(0, cells, at_once):
            stop = min(cells, first + at_once)
            for cycle in range(0, config.cycles, _CYCLES):
                plan = self._plan(first, stop, cycle, min(_CYCLES, config.cycles - cycle))
                counts[first:stop] += plan.cycle_rows.reshape(stop - first, -1).sum(axis=1)
        return counts

    @property
    def total(self) -> int:
        """Number of messages, exactly; for its cost see `counts`."""
        sent_twice = _whole(self.counts, self.config.duplicates, _share(self._keys, 3))
        return int(self.counts.sum() + sent_twice.sum())

    @property
    def ends_at_us(self) -> int:
        """About when the last reading is recorded (from an average cell), µs since 1970 UTC."""
        config = self.config
        cycles: float = config.cycles
        if config.readings is not None:
            each = -(-config.readings // config.equipment)
            cycles = each / float(self._first_cycle.cycle_rows[0])
            machines = each * config.interval
        else:
            machines = cycles * _MACHINE_CYCLE_S
        cells = cycles * (int(self._first_cycle.cycle_ms[0]) / 1000.0)
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
            cell_rows = config.cycles * int(self._first_cycle.cycle_rows[0])
            machine_rows = round(config.cycles * _MACHINE_CYCLE_S / config.interval)
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
        decimals = CELL_COLUMNS if self._is_cells(block) else MACHINE_COLUMNS
        names = self._names(block)
        for chunk in self._chunks(block, healthy=True):
            out: dict[str, NDArray[Any]] = {
                "equipment_id": names[chunk.equipment - block.first],
                "recorded_at_us": chunk.recorded_ms * 1000,
            }
            if chunk.test is not None:
                low = int(chunk.test.min())
                suffix = _test_names(low, int(chunk.test.max()))[chunk.test - low]
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
        offset, pending = 0, _Pending.empty()
        names = self._names(block)
        text = _Text(self._is_cells(block), names)
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

    def _is_cells(self, block: Block) -> bool:
        return block.first < self.config.cell_count

    def _names(self, block: Block) -> NDArray[np.bytes_]:
        """Equipment ids of a block, all equally long within the fleet."""
        cells = self.config.cell_count
        width = max(3, len(str(self.config.equipment)))
        kind, base = ("cell", 0) if self._is_cells(block) else ("machine", cells)
        return np.array(
            [f"sim_{kind}_{e - base + 1:0{width}d}" for e in range(block.first, block.stop)], "S"
        )

    def _chunks(self, block: Block, healthy: bool = False) -> Iterator[_Chunk]:
        faults = 0.0 if healthy else self.config.faults
        if self._is_cells(block):
            yield from self._cell_chunks(block, faults)
        else:
            yield from self._machine_chunks(block, faults)

    def _send(
        self, chunk: _Chunk, text: _Text, keys: list[bytes]
    ) -> tuple[list[bytes], list[bytes], Ints, NDArray[np.int8]]:
        """Turns readings into messages: faults, delays and second copies."""
        config = self.config
        delay_us = 20_000 + _bits(chunk.noise, 48) * 61  # 20 to 270 ms
        if config.late:
            dice = _mix(chunk.noise ^ _SALT[1])
            lag = 3.0 * config.interval * 20.0 ** _share(dice, 4)
            delay_us += np.where(_share(dice, 5) < config.late, 1e6 * lag, 0.0).astype(np.int64)
        arrived_us = chunk.recorded_ms * 1000 + delay_us
        payloads = text.encode(chunk, arrived_us // 1000)

        codes = chunk.fault
        if config.faults:
            dice = _mix(chunk.noise ^ _SALT[2])
            kinds = np.array(
                [
                    code
                    for code, fault in enumerate(FAULTS, start=1)
                    if (fault.cells if text.cells else fault.machines) and code != _STUCK_CODE
                ],
                np.int8,
            )
            hit = (codes == 0) & (_share(dice, 4) < chunk.chance)
            codes = np.where(hit, kinds[(dice % np.uint64(kinds.size)).astype(np.int64)], codes)
            for i in np.flatnonzero(hit).tolist():
                payloads[i] = _spoil(payloads[i], FAULTS[codes[i] - 1].name, int(dice[i] >> 32))

        if config.duplicates:
            phase = _share(self._keys[chunk.equipment], 3)
            twice = np.flatnonzero(
                _whole(chunk.reading + 1, config.duplicates, phase)
                > _whole(chunk.reading, config.duplicates, phase)
            )
            again = 1_000_000 + _bits(chunk.noise[twice], 36) * 7_000  # 1 to 30 s later
            arrived_us = np.concatenate((arrived_us, arrived_us[twice] + again))
            codes = np.concatenate((codes, codes[twice]))
            payloads += [payloads[i] for i in twice.tolist()]
            keys = keys + [keys[i] for i in twice.tolist()]
        return payloads, keys, arrived_us, codes

    # Cells

    @cached_property
    def _first_cycle(self) -> CellPlan:
        """The first cycle of an average cell."""
        one = np.ones(1)
        spread = CellSpread(one, one, one, 1e9 * one, np.zeros((1, 1)))
        return cell_model.plan(spread, self.config.nominal_ah, self.config.interval)

    def _plan(self, first: int, stop: int, begin: int, cycles: int) -> CellPlan:
        """Cycles begin … begin + cycles - 1 of cells first … stop - 1, cells outermost."""
        own = _mix(self._keys[first:stop] ^ _SALT[3])
        jitter = _mix(own[:, None] + _GOLDEN * np.arange(begin, begin + cycles, dtype=np.uint64))
        spread = CellSpread(
            capacity=1.0 + 0.006 * _normal(own, 0),
            resistance=1.0 + 0.05 * _normal(own, 12),
            fade=np.exp(0.10 * _normal(own, 24)),
            knee=np.maximum(320.0 + 45.0 * _normal(own, 36), 60.0),
            jitter=0.0006 * _normal(jitter, 0),
        )
        return cell_model.plan(spread, self.config.nominal_ah, self.config.interval, begin)

    def _cell_chunks(self, block: Block, faults: float) -> Iterator[_Chunk]:
        config, cells = self.config, block.stop - block.first
        rest = np.full(cells, 1 << 62)  # readings still wanted of each cell
        left = config.cycles
        if config.readings is not None:
            rest = self.counts[block.first : block.stop].copy()
            left = 1 << 62
        clock = self._offset_ms(np.arange(block.first, block.stop))
        done = np.zeros(cells, np.int64)
        begin = 0
        while left and rest.any():
            # Few cycles of many cells, or a part of one cell's life: memory stays bounded.
            cycles = min(left, _CYCLES)
            if config.readings is not None:
                guess = int(rest.max()) // int(self._first_cycle.cycle_rows[0])
                cycles = min(cycles, guess + 1)
                cycles += -cycles % CYCLES_PER_TEST if cells == 1 else 0  # so the next opens a test
            plan = self._plan(block.first, block.stop, begin, cycles)
            while cells > 1 and config.readings is not None:
                # A group must come out whole to be put in order of arrival. Ageing cells have
                # shorter cycles than the guess.
                if np.all(plan.cycle_rows.reshape(cells, cycles).sum(axis=1) >= rest):
                    break
                cycles += cycles // 4 + 1
                plan = self._plan(block.first, block.stop, begin, cycles)
            by_cell = plan.cycle_rows.reshape(cells, cycles)
            before = np.cumsum(by_cell, axis=1) - by_cell
            most = np.clip(rest[:, None] - before, 0, by_cell).ravel()
            context = _CellContext(self, block, plan, begin, clock, done)
            wanted = np.flatnonzero(most)
            # A group of cells is one chunk; a single cell's life is cut at whole cycles.
            cuts = [0, wanted.size]
            if cells == 1:
                total = np.cumsum(most[wanted])
                marks = np.arange(CHUNK, int(total[-1]), CHUNK)
                cuts = np.unique(np.concatenate((cuts, np.searchsorted(total, marks)))).tolist()
            for low, high in pairwise(cuts):
                pairs = wanted[low:high]
                yield context.readings(pairs, most[pairs], faults)
            given = by_cell.sum(axis=1)
            rest = np.maximum(rest - given, 0)
            done = done + given
            clock = context.ends_ms
            begin += cycles
            left -= cycles

    # Machines

    def _machine_chunks(self, block: Block, faults: float) -> Iterator[_Chunk]:
        limits = self.counts[block.first : block.stop]
        if limits.size > 1:
            equipment = np.repeat(np.arange(block.first, block.stop), limits)
            starts = np.cumsum(limits) - limits
            reading = np.arange(equipment.size) - np.repeat(starts, limits)
            if equipment.size:
                yield self._machine_readings(equipment, reading, faults)
            return
        for low in range(0, int(limits[0]), CHUNK):
            reading = np.arange(low, min(int(limits[0]), low + CHUNK))
            yield self._machine_readings(np.full(reading.size, block.first), reading, faults)

    def _machine_readings(self, equipment: Ints, reading: Ints, faults: float) -> _Chunk:
        """A mains-fed motor: load by the hour of the week, a slow winding, a common grid."""
        keys = self._keys[equipment]
        noise = _mix(keys + _GOLDEN * reading.astype(np.uint64))
        passed_ms = np.rint(reading * (1000.0 * self.config.interval)).astype(np.int64)
        recorded_ms = self.config.start_ms + self._offset_ms(equipment) + passed_ms
        seconds = recorded_ms / 1000.0
        hour, part = np.divmod(seconds / 3600.0, 1.0)
        hour_number = hour.astype(np.int64)

        def load(at: Ints) -> Floats:
            weekday, of_day = (at // 24 + 3) % 7, at % 24  # 1970 began on a Thursday
            busy = (weekday < 5) & (of_day >= 6) & (of_day < 22)
            dice = _mix(_mix(keys ^ _SALT[4]) + _GOLDEN * at.astype(np.uint64))
            return np.where(busy, 0.75, 0.2) * (0.7 + 0.6 * _share(dice, 4))

        now = load(hour_number)
        # Winding temperature follows the load with a lag of about an hour: of the exponential's
        # weights the last four hours are kept, blended linearly within the hour.
        weights = np.array([0.55, 0.25, 0.13, 0.07])
        heat = np.zeros(now.shape)
        recent = [now, *(load(hour_number - back) for back in range(1, 5))]
        for back, weight in enumerate(weights):
            heat += weight * (recent[back] * part + recent[back + 1] * (1.0 - part))
        day = np.sin((2.0 * np.pi / 86_400.0) * seconds - 2.2)
        grid = 0.020 * np.sin(seconds * (2.0 * np.pi / 1812.0)) + 0.011 * np.sin(seconds / 97.0)
        rated = 6.0 + 24.0 * _share(_mix(keys ^ _SALT[5]), 4)
        wobble = 1.0 + 0.02 * _normal(noise, 12)
        voltage = 230.0 + 1.8 * day - 3.0 * now + 0.5 * _normal(noise, 0)
        return _Chunk(
            equipment=equipment,
            reading=reading,
            recorded_ms=recorded_ms,
            noise=noise,
            columns={
                "voltage_v": _scaled(voltage, 2),
                "current_a": _scaled(rated * (0.15 + 0.85 * now) * wobble, 3),
                "frequency_hz": _scaled(50.0 + grid + 0.003 * _normal(noise, 24), 3),
                "temperature_c": _scaled(
                    self.config.temperature + 3.0 * day + 42.0 * heat + 0.15 * _normal(noise, 36), 2
                ),
            },
            test=None,
            fault=np.zeros(equipment.size, np.int8),
            chance=faults,
        )

    def _offset_ms(self, equipment: Ints) -> Ints:
        """Spreads the equipments' clocks over one interval; equipment 0 starts on time."""
        share = (equipment * 0.6180339887498949) % 1.0
        return (share * (1000.0 * self.config.interval)).astype(np.int64)


class _CellContext:
    """What the readings of a block's cells need beside their plan: tests, clocks, counters."""

    def __init__(
        self, fleet: Fleet, block: Block, plan: CellPlan, begin: int, clock_ms: Ints, done: Ints
    ) -> None:
        """`plan` begins at cycle `begin`, `clock_ms` after the fleet, after `done` readings."""
        cells = block.stop - block.first
        cycles = plan.lithium.size // cells
        self._fleet, self._first, self._plan = fleet, block.first, plan
        self._begin, self._cycles = begin, cycles
        number = np.arange(cycles)
        self._opens = number // CYCLES_PER_TEST * CYCLES_PER_TEST
        shape = (cells, cycles)
        self._own = fleet._keys[block.first : block.stop]
        dice = _mix(
            _mix(self._own ^ _SALT[6])[:, None] + _GOLDEN * (begin + number).astype(np.uint64)
        )
        self._dice: Hashes = dice.ravel()
        # Between two tests the cycler stands still for 1 to 24 hours.
        gap = ((1.0 + 23.0 * _share(dice, 4)) * 3.6e6).astype(np.int64)
        gap[:, (begin + number == 0) | (number != self._opens)] = 0
        duration = plan.cycle_ms.reshape(shape)
        begins = np.cumsum(duration + gap, axis=1) - duration
        begins += clock_ms[:, None]
        self.ends_ms: Ints = begins[:, -1] + duration[:, -1]
        self._begins_ms = begins.ravel()
        self._test_ms = (begins - begins[:, self._opens]).ravel()
        rows = plan.cycle_rows.reshape(shape)
        self._reading = (done[:, None] + np.cumsum(rows, axis=1) - rows).ravel()
        self._record = self._in_test(rows)
        self._moved = tuple(
            self._in_test(per_step.sum(axis=1).reshape(shape))
            for per_step in (
                plan.charge_ah,
                plan.discharge_ah,
                plan.charge_wh,
                plan.discharge_wh,
            )
        )
        # Resistance is measured when the load comes on; until then the last value stands.
        measured = (plan.r0 * (1.0 + 0.01 * _normal(self._dice, 0))).reshape(shape)
        earlier = np.concatenate((np.zeros((cells, 1)), measured[:, :-1]), axis=1)
        earlier[:, number == self._opens] = 0.0
        self._measured = np.stack((earlier.ravel(), measured.ravel()))

    def _in_test(self, per_cycle: NDArray[Any]) -> NDArray[Any]:
        """Sum over a test's earlier cycles, (cells x cycles,)."""
        before = np.cumsum(per_cycle, axis=1) - per_cycle
        total: NDArray[Any] = (before - before[:, self._opens]).ravel()
        return total

    def readings(self, pairs: Ints, most: Ints, faults: float) -> _Chunk:
        """The first `most` readings of each pair, measured: with noise, at the cycler's digits."""
        config, plan = self._fleet.config, self._plan
        exact = cell_model.rows(plan, pairs, most)
        source = pairs[exact.pair]
        within = np.arange(source.size) - np.repeat(np.cumsum(most) - most, most)
        cell, cycle = np.divmod(source, self._cycles)
        cycle += self._begin
        reading = self._reading[source] + within
        noise = _mix(self._own[cell] + _GOLDEN * reading.astype(np.uint64))
        recorded_ms = config.start_ms + self._begins_ms[source] + exact.cycle_ms

        voltage = _scaled(exact.voltage_v + 3e-4 * _normal(noise, 0), 4)
        current = exact.current_a + (1e-4 * config.nominal_ah) * _normal(noise, 12)
        current[exact.current_a == 0.0] = 0.0  # the relay is open: no current, no noise
        daily = 0.3 * np.sin(recorded_ms * (2.0 * np.pi / 86.4e6))
        ambient = config.temperature + daily + 0.03 * _normal(noise, 36)
        warm = config.temperature + daily + exact.heat_k + 0.05 * _normal(noise, 24)
        loaded = exact.step >= cell_model.CC_DISCHARGE
        columns = {
            "record_index": self._record[source] + within + 1,
            "test_time_s": self._test_ms[source] + exact.cycle_ms,
            "step_time_s": exact.step_ms,
            "cycle_index": cycle % CYCLES_PER_TEST + 1,
            "step_index": exact.step + 1,
            "voltage_v": voltage,
            "current_a": _scaled(current, 4),
            "charge_capacity_ah": _scaled(exact.charge_ah + self._moved[0][source], 6),
            "discharge_capacity_ah": _scaled(exact.discharge_ah + self._moved[1][source], 6),
            "charge_energy_wh": _scaled(exact.charge_wh + self._moved[2][source], 6),
            "discharge_energy_wh": _scaled(exact.discharge_wh + self._moved[3][source], 6),
            "internal_resistance_ohm": _scaled(
                np.where(loaded, self._measured[1][source], self._measured[0][source]), 6
            ),
            "temperature_c": _scaled(warm, 2),
            "ambient_temperature_c": _scaled(ambient, 2),
        }
        fault = np.zeros(source.size, np.int8)
        chance: Floats | float = 0.0
        if faults:
            # Stuck runs come first, at most one a cycle; single faults make up the share.
            kinds = sum(kind.cells for kind in FAULTS)
            rows = plan.cycle_rows[pairs]
            in_charge = plan.rows[pairs, cell_model.CC_CHARGE]
            dice = self._dice[pairs]
            often = np.minimum(1.0, faults / kinds * rows / _STUCK)
            often[in_charge < _STUCK + 4] = 0.0
            begins = 2 + (dice % np.maximum(in_charge - _STUCK - 3, 1).astype(np.uint64)).astype(
                np.int64
            )
            begins = np.where(_share(dice, 5) < often, begins, 1 << 40)
            into = within - begins[exact.pair]
            run = np.flatnonzero((into >= 0) & (into < _STUCK))
            voltage[run] = voltage[run - into[run]]
            fault[run] = _STUCK_CODE
            stuck = often * _STUCK / rows
            chance = ((faults - stuck) / (1.0 - stuck))[exact.pair]
        return _Chunk(
            equipment=cell + self._first,
            reading=reading,
            recorded_ms=recorded_ms,
            noise=noise,
            columns=columns,
            test=cycle // CYCLES_PER_TEST + 1,
            fault=fault,
            chance=chance,
        )


class _Pending:
    """Messages that were sent but not yet handed on; `settled` of them can't be overtaken."""

    def __init__(
        self, payloads: list[bytes], keys: list[bytes], at: Ints, codes: NDArray[np.int8]
    ) -> None:
        self.payloads, self.keys, self.at, self.codes = payloads, keys, at, codes
        self.settled = 0

    @classmethod
    def empty(cls) -> _Pending:
        return cls([], [], np.zeros(0, np.int64), np.zeros(0, np.int8))

    def add(
        self, payloads: list[bytes], keys: list[bytes], at: Ints, codes: NDArray[np.int8]
    ) -> None:
        self.payloads += payloads
        self.keys += keys
        self.at = np.concatenate((self.at, at))
        self.codes = np.concatenate((self.codes, codes))

    def settle(self, horizon: int | None) -> None:
        """Sorts by arrival and settles all that arrived up to the horizon (None: all)."""
        if np.any(self.at[1:] < self.at[:-1]):
            order = np.argsort(self.at, kind="stable")
            self.at, self.codes = self.at[order], self.codes[order]
            pick = itemgetter(*order.tolist())  # two or more, or there were no order to mend
            self.payloads, self.keys = list(pick(self.payloads)), list(pick(self.keys))
        everything = self.at.size
        self.settled = (
            everything if horizon is None else int(np.searchsorted(self.at, horizon, "right"))
        )

    def take(self, n: int, partition: str, offset: int) -> Messages:
        taken = Messages(
            self.payloads[:n], self.keys[:n], self.at[:n], partition, offset, self.codes[:n]
        )
        del self.payloads[:n], self.keys[:n]
        self.at, self.codes = self.at[n:], self.codes[n:]
        self.settled -= n
        return taken


def _spoil(payload: bytes, kind: str, dice: int) -> bytes:
    """The payload as a faulty gateway would send it."""
    if kind == "truncated_json":
        size = len(payload)
        return payload[: size // 10 + dice % (size * 8 // 10)]
    if kind == "bad_utf8":
        return payload.replace(b'"equipment_type":"', b'"equipment_type":"\xff\xfe', 1)
    if kind == "missing_field":
        return _with(payload, b"voltage_v", None)
    field, text = {
        "wrong_type": (b"voltage_v", b'"n/a"'),
        "nan_literal": (b"voltage_v", b"NaN"),
        "voltage_out_of_range": (b"voltage_v", b"999999.0"),
        "negative_counter": (b"discharge_capacity_ah", b"-1.0"),
        "negative_frequency": (b"frequency_hz", b"-50.0"),
        "bad_timestamp": (b"recorded_at", b'"31.31.2024 25:61"'),
        # Far ahead of any clock that reads it: the fleet itself plays in the past.
        "future_timestamp": (b"recorded_at", b'"2099-01-01T00:00:00.000Z"'),
        "voltage_above_limit": (b"voltage_v", b"4.3500"),
        "voltage_below_limit": (b"voltage_v", b"2.3500"),
        "frequency_off": (b"frequency_hz", b"46.500"),
    }[kind]
    return _with(payload, field, text)


def _with(payload: bytes, field: bytes, text: bytes | None) -> bytes:
    """Replaces a field's value, or drops the field; it is not the object's last."""
    name = b'"' + field + b'":'
    begins = payload.index(name)
    ends = payload.index(b',"', begins)
    middle = b"" if text is None else name + text
    rest = payload[ends + 1 :] if text is None else payload[ends:]
    return payload[:begins] + middle + rest


# JSON text. Rows are laid out in a table of fixed-width pieces, whose constant text is written
# once; numbers come from tables of ready digits, unused places stay NUL and are deleted at the
# end. That is several times faster than a dict per row and an encoder.


def _words(texts: list[str]) -> NDArray[np.uint32]:
    """Texts of up to four characters as words."""
    return np.array(texts, "S4").view(np.uint32)


_PAD4: Final = _words([f"{n:04d}" for n in range(10_000)])
# Right-aligned without leading zeros; index + 10,000 with them, for the lower half of a number.
_LEAD4: Final = np.concatenate(
    (_words(["0"]), _words([str(n).rjust(4, "\0") for n in range(1, 10_000)]), _PAD4)
)
_UPPER4: Final = np.concatenate((_words([""]), _LEAD4[1:10_000]))
_DOT2: Final = _words([f".{n:02d}" for n in range(100)])
_DOT3: Final = _words([f".{n:03d}" for n in range(1000)])
_PAD3: Final = _words([f"{n:03d}" for n in range(1000)])
_MINUTES: Final = np.array([f"{h:02d}:{m:02d}:" for h in range(24) for m in range(60)], "S6")
_SECONDS: Final = np.array([f"{n // 1000:02d}.{n % 1000:03d}Z" for n in range(60_000)], "S7")


class _Text:
    """Formats readings of one kind of equipment as JSON."""

    def __init__(self, cells: bool, names: NDArray[np.bytes_]) -> None:
        self.cells, self._names = cells, names
        self._decimals = CELL_COLUMNS if cells else MACHINE_COLUMNS
        kind = "battery_cell" if cells else "machine"
        pieces: list[tuple[str, str | bytes]] = [("", b"{")]

        def quoted(name: str, *parts: tuple[str, str]) -> None:
            pieces.extend([("", f'"{name}":"'.encode()), *parts, ("", b'",')])

        quoted("equipment_id", ("id", names.dtype.str))
        pieces.append(("", f'"equipment_type":"{kind}",'.encode()))
        if cells:
            quoted("test_id", ("test_of", names.dtype.str), ("test", "S8"))
        for name in ("recorded_at", "streamed_at"):
            quoted(name, (f"{name}.day", "S11"), (f"{name}.minute", "S6"), (f"{name}.second", "S7"))
        for i, (name, digits) in enumerate(self._decimals.items()):
            pieces += [("", f'{"," if i else ""}"{name}":'.encode()), (f"{name}.sign", "S1")]
            pieces += [(f"{name}.upper", "u4"), (f"{name}.lower", "u4")]
            pieces += [("", b".")] if digits == 4 else []
            pieces += [(f"{name}.after", "u4")] if digits else []
            pieces += [(f"{name}.last", "u4")] if digits == 6 else []
        pieces.append(("", b"}\n"))

        kinds = [
            np.dtype(f"S{len(what)}") if isinstance(what, bytes) else np.dtype(what)
            for _, what in pieces
        ]
        places = [name or f"text{i}" for i, (name, _) in enumerate(pieces)]
        self._rows = np.zeros(_SLICE, np.dtype(list(zip(places, kinds, strict=True))))
        self._at = {place: self._rows[place] for place in places}
        for place, (_, what) in zip(places, pieces, strict=True):
            if isinstance(what, bytes):
                self._at[place][:] = what

    def encode(self, chunk: _Chunk, streamed_ms: Ints) -> list[bytes]:
        """JSON objects of all readings; `streamed_ms` (n,) in milliseconds since 1970 UTC."""
        n = chunk.equipment.size
        first_day = int(chunk.recorded_ms.min()) // 86_400_000
        last_day = int(streamed_ms.max()) // 86_400_000
        dates = np.arange(first_day, last_day + 1).astype("M8[D]").astype(str)
        days = np.strings.add(dates, "T").astype("S11")
        own = chunk.equipment - chunk.equipment[0]  # a chunk starts with its block's first
        low_test = 0
        tests: NDArray[np.bytes_] | None = None
        if chunk.test is not None:
            low_test = int(chunk.test.min())
            tests = _test_names(low_test, int(chunk.test.max()))
        out: list[bytes] = []
        for low in range(0, n, _SLICE):
            part = slice(low, min(n, low + _SLICE))
            size = part.stop - low
            names = self._names[own[part]]
            self._at["id"][:size] = names
            if tests is not None and chunk.test is not None:
                self._at["test_of"][:size] = names
                self._at["test"][:size] = tests[chunk.test[part] - low_test]
            self._time("recorded_at", chunk.recorded_ms[part], days, first_day)
            self._time("streamed_at", streamed_ms[part], days, first_day)
            for name, digits in self._decimals.items():
                self._number(name, chunk.columns[name][part], digits)
            lines = self._rows[:size].tobytes().translate(None, b"\0").split(b"\n")
            lines.pop()
            out += lines
        return out

    def _time(self, name: str, ms: Ints, days: NDArray[np.bytes_], first_day: int) -> None:
        minutes = ms // 60_000
        day = minutes // 1440
        size = ms.size
        self._at[f"{name}.day"][:size] = days[day - first_day]
        self._at[f"{name}.minute"][:size] = _MINUTES[minutes - 1440 * day]
        self._at[f"{name}.second"][:size] = _SECONDS[ms - 60_000 * minutes]

    def _number(self, name: str, values: Ints, digits: int) -> None:
        """Writes values / 10**digits; whole parts of up to eight digits."""
        at, size = self._at, values.size
        if name in ("current_a", "temperature_c", "ambient_temperature_c"):
            at[f"{name}.sign"][:size] = np.where(values < 0, b"-", b"")
            values = np.abs(values)
        whole = values
        if digits:
            scale = 10**digits
            whole = values // scale
            rest = values - scale * whole
            if digits == 2:
                at[f"{name}.after"][:size] = _DOT2[rest]
            elif digits == 3:
                at[f"{name}.after"][:size] = _DOT3[rest]
            elif digits == 4:
                at[f"{name}.after"][:size] = _PAD4[rest]
            else:
                upper = rest // 1000
                at[f"{name}.after"][:size] = _DOT3[upper]
                at[f"{name}.last"][:size] = _PAD3[rest - 1000 * upper]
        if whole.max() < 10_000:
            at[f"{name}.upper"][:size] = 0
            at[f"{name}.lower"][:size] = _LEAD4[whole]
        else:
            upper = whole // 10_000
            at[f"{name}.upper"][:size] = _UPPER4[upper]
            at[f"{name}.lower"][:size] = _LEAD4[whole - 10_000 * upper + 10_000 * (upper > 0)]


def _test_names(low: int, high: int) -> NDArray[np.bytes_]:
    return np.array([f"_t{number:02d}" for number in range(low, high + 1)], "S8")


# Random numbers: splitmix64 (Steele et al., OOPSLA 2014) of equipment key and position.

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_SALT: Final = np.array([0x51ED270B, 0x2545F491, 0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
                         0x510E527F], np.uint64) * _GOLDEN  # one per purpose  # fmt: skip
_NORMALS: Final = np.array([NormalDist().inv_cdf((i + 0.5) / 4096) for i in range(4096)])


def _mix(x: Any) -> Hashes:
    """Hashes 64-bit numbers; (n,) to (n,)."""
    with np.errstate(over="ignore"):
        z = np.asarray(x, np.uint64) + _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: Hashes = z ^ (z >> np.uint64(31))
    return mixed


def _bits(hashes: Hashes, shift: int) -> Ints:
    """Twelve bits of each hash, 0 … 4095: one hash serves five draws."""
    return ((hashes >> np.uint64(shift)) & np.uint64(0xFFF)).astype(np.int64)


def _normal(hashes: Hashes, shift: int) -> Floats:
    """Standard normal numbers, at most 3.7 either way."""
    drawn: Floats = _NORMALS[_bits(hashes, shift)]
    return drawn


def _share(hashes: Hashes, purpose: int) -> Floats:
    """Uniform numbers in 0 … 1; another purpose takes other bits."""
    spread = hashes * (_GOLDEN + np.uint64(2 * purpose))
    return (spread >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _whole(count: Ints, share: float, phase: Floats) -> Ints:
    """How many of the first `count` are chosen when `share` of them are, evenly spread."""
    return np.floor(count * share + phase).astype(np.int64)


def _scaled(values: Floats, decimals: int) -> Ints:
    """Rounded to whole numbers in units of 10**-decimals."""
    return np.rint(values * 10.0**decimals).astype(np.int64)
