"""The potential of graphite over its filling, and how a cell's voltage moves as electrodes slide.

Graphite's six reactions are those of Verbrugge et al., J. Electrochem. Soc. 164 (2017) E3243, in
the multi-species multi-reaction form. The positive electrode is not assumed: it is what is left of
the cell's own early curve when graphite is taken out of it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

_F_RT: Final = 38.92  # 1/V at 25 °C
_GRAPHITE: Final = np.array(  # U_j (V), X_j, w_j
    [
        (0.08843, 0.43336, 0.08611),
        (0.12799, 0.23963, 0.08009),
        (0.14331, 0.15018, 0.72469),
        (0.16984, 0.05462, 2.53277),
        (0.21446, 0.06744, 0.09470),
        (0.36325, 0.05476, 5.97354),
    ]
)


def _table() -> tuple[F64, F64]:
    """Fillings, rising, and the potential at each."""
    potential = np.linspace(2.0, -0.5, 5001)
    centre, share, width = _GRAPHITE.T
    z = np.clip(_F_RT * (potential[:, None] - centre) / width, -500.0, 500.0)
    filling = (share / share.sum() / (1.0 + np.exp(z))).sum(axis=1)
    grid = np.linspace(0.0, 1.0, 2001)
    return grid, np.interp(grid, filling, potential)


_FILLING, _POTENTIAL = _table()


def graphite_v(filling: F64) -> F64:
    """V against lithium at each filling; outside 0 to 1 that of the end."""
    return np.interp(filling, _FILLING, _POTENTIAL)
