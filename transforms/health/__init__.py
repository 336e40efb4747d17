"""State of health from partial segments at constant current, online.

segments      cuts stretches of constant current out of one cycle's readings
electrodes    graphite's potential, and what is left of a cell's curve without it
reference     the cell's own early curves of voltage over charge, per direction and rate
fit           what has aged, from a cycle's segments and what was known before
cell          the state of a cell, and a figure per cycle with its 90 % interval
coefficients  the plain numbers behind it, from coefficients.json or handed in
"""

from transforms.health.cell import MOST_BYTES, Cell, CycleSegments, Health, Known
from transforms.health.coefficients import Coefficients, default
from transforms.health.segments import Segment, segments

__all__ = [
    "MOST_BYTES", "Cell", "Coefficients", "CycleSegments", "Health", "Known", "Segment", "default",
    "segments",
]  # fmt: skip
