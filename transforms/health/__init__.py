"""State of health from partial segments at constant current, online.

For cells that are never fully discharged. What a cell's own first segments look like (voltage over
charge) is kept; every later cycle's segments are fitted to it with the electrodes' capacity, their
slide against one another and the resistance as unknowns, by a filter that knows only cycles up to
this one. `soh` is the capacity as a share of the cell's own initial one: that of its first full
discharges where it has any, else that of its electrodes in the first cycle seen; at the first
cycle's temperature and at the discharge rate of the reference.

    segments      cuts stretches of constant current out of one cycle's readings
    electrodes    graphite's potential, and what is left of a cell's curve without it
    reference     the cell's own early curves of voltage over charge, per direction and rate
    fit           what has aged, from a cycle's segments and what was known before
    cell          the state of a cell, and a figure per cycle with its 90 % interval
    coefficients  the plain numbers behind it, from coefficients.json or handed in

The cell's own are its reference, its loss per cycle and how its capacity depends on temperature,
which is estimated online from the coefficients on. The resistance's temperature dependence, rate
correction and the calibration of the interval are coefficients, trained on simulated cells. The
interval holds for cells that age as those do. Real cells whose curves change their shape are known
by what the fit can't explain, which widens the interval, but not always by enough: on CALCE's
CS2_35 windows alone were off by more than it says (`python -m tests.benchmarks.health`).
"""

from transforms.health.cell import MOST_BYTES, Cell, CycleSegments, Health, Known
from transforms.health.coefficients import Coefficients, default
from transforms.health.segments import Segment, segments

__all__ = [
    "MOST_BYTES", "Cell", "Coefficients", "CycleSegments", "Health", "Known", "Segment", "default",
    "segments",
]  # fmt: skip
