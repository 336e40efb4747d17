"""Draws synthetic cells over protocol, chemistry, sampling, noise, temperature and what is omitted."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode

from pipeline.sources.simulation import truth
from pipeline.sources.simulation.config import FleetConfig
from pipeline.sources.simulation.fleet import Fleet
from pipeline.sources.simulation.truth import Truth

T = TypeVar("T")

# Every kind of cell takes turns; `formation` is drawn with one and with several cycles an index.
PROTOCOLS = ("cycling", "partial", "drive", "formation", "check_up", "pulse", "multistage")
CHEMISTRIES = ("default", "lco", "nmc", "lfp")
INTERVALS_S = {1.0: 1, 5.0: 4, 10.0: 12, 20.0: 12, 30.0: 18, 60.0: 26, 120.0: 14, 300.0: 13}
SAMPLINGS = {"regular": 7, "irregular": 2, "voltage": 2}
OMISSIONS = {
    "": 11,
    "cycle_index": 2,
    "cycle_index,steps": 2,
    "counters": 2,
    "counters,cycle_index,steps": 2,
    "temperature,resistance": 1,
}
NOISES_MV = (0.0, 0.3, 1.0, 2.0, 5.0)
WARMTHS = ("room", "cold", "hot", "season", "cold_week")
_MOST_READINGS = 8_000  # of a cell, about: the fewest cycles of the densest sampling have more
_LONG = {"formation": 4.0, "check_up": 2.0, "pulse": 1.5}  # hours of a cycle, in those of others


@dataclass(frozen=True)
class Cell:
    """A drawn cell: `uri` repeats it, as the simulator's only one."""

    number: int
    uri: str
    config: FleetConfig
    traits: dict[str, str]
    equipment_id: str

    def true(self) -> Truth:
        """What is true of it; its tables name it as the simulator does, not as here."""
        return truth.of(self.config)

    def write(self, path: Path) -> int:
        """Appends its messages under its own name, a line each; returns how many."""
        fleet = Fleet(self.config)
        (given,) = fleet.cell_names()
        # As text: "sim_cell_001" and "sim_cell_001_t01" become those of this cell.
        before, after = f'"{given}'.encode(), f'"{self.equipment_id}'.encode()
        count = 0
        with path.open("ab") as out:
            for block in fleet.blocks(200_000):
                for messages in fleet.messages(block):
                    out.writelines(
                        payload.replace(before, after) + b"\n" for payload in messages.payloads
                    )
                    count += len(messages.payloads)
        return count


def draw(seed: int, number: int) -> Cell:
    """The cell with this number of the benchmark with this seed."""
    dice = random.Random(f"{seed}/{number}")
    protocol = PROTOCOLS[number % len(PROTOCOLS)]
    chemistry = CHEMISTRIES[number // len(PROTOCOLS) % len(CHEMISTRIES)]
    sampling = _weighted(dice, SAMPLINGS)
    interval = _weighted(dice, INTERVALS_S)
    if protocol in _LONG:
        interval = max(interval, 5.0)
    warmth = dice.choice(WARMTHS)
    omit = _weighted(dice, OMISSIONS)
    noise = dice.choice(NOISES_MV)
    a_cycle = 14_400.0 / interval * _LONG.get(protocol, 1.0)
    if protocol == "drive":
        a_cycle += 800.0  # every change of current is read
    most = int(min(40, max(5, _MOST_READINGS / a_cycle)))
    given: dict[str, str | int | float] = {
        "equipment": 1,
        "machines": 0,
        "seed": dice.randrange(1, 10**6),
        "cycles": dice.randint(5, most),
        "interval": interval,
        "protocol": protocol,
        "chemistry": chemistry,
        "noise": noise,
        "fade": dice.choice((1, 4, 10)),
    }
    if protocol == "cycling" and chemistry == "default" and sampling == "regular":
        del given["fade"]  # the default's electrodes
        warmth = warmth if warmth in ("room", "cold", "hot") else "room"
    if protocol in ("partial", "check_up", "pulse"):
        given["reference_every"] = dice.choice((3, 5, 10))
    if protocol == "partial":
        low, high = dice.choice(((0.3, 0.8), (0.1, 0.6), (0.5, 0.9), (0.2, 0.95)))
        given |= {"soc_min": low, "soc_max": high}
    if protocol == "formation":
        given["per_index"] = dice.choice((1, 1, 2, 3))
    if sampling != "regular":
        given["sampling"] = sampling
    if sampling == "voltage":
        given["voltage_step"] = dice.choice((5, 10))
    if omit:
        given["omit"] = omit
    given |= {
        "room": {},
        "cold": {"temperature": 5},
        "hot": {"temperature": 40},
        "season": {"temperature_swing": 8, "temperature_period": 4},
        "cold_week": {"cold_week": 1},
    }[warmth]
    query = urlencode(given, safe=",")
    config = FleetConfig.parse({name: str(value) for name, value in given.items()})
    short = Fleet(config).cell_names()[0].rsplit("_", 1)[0]
    return Cell(
        number=number,
        uri=f"simulator:?{query}",
        config=config,
        traits={
            "protocol": protocol,
            "chemistry": chemistry,
            "sampling": sampling,
            "interval": f"{interval:g} s",
            "noise": f"{noise:g} mV",
            "temperature": warmth,
            "omitted": omit or "nothing",
        },
        equipment_id=f"{short}_{number:05d}",
    )


def _weighted(dice: random.Random, weights: dict[T, int]) -> T:
    return dice.choices(list(weights), list(weights.values()))[0]
