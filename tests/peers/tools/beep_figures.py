"""BEEP's own figures of a cycler's file, as JSON; runs in BEEP's environment."""

from __future__ import annotations

import json
import logging
import math
import sys
import tempfile
import warnings
from pathlib import Path

from beep.structure.arbin import ArbinDatapath
from rows import per_cycle, read

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)


def summary(rows, nominal_ah):
    """Charge, energy and the cycler's resistance of each cycle."""
    # BEEP takes a cycle's largest count for its capacity, so counters have to start with the cycle.
    rows = per_cycle(rows)
    names = {name: name.split("(")[0].lower() for name in rows.columns} | {"Date_Time": "datetime"}
    rows = rows.rename(columns=names)
    rows["datetime"] = rows["datetime"].map(lambda stamp: stamp.timestamp())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        rows.to_csv(path)
        data = ArbinDatapath.from_file(str(path))
    made = data.summarize_cycles(nominal_capacity=nominal_ah)
    figures = {
        "charge_ah": "charge_capacity",
        "discharge_ah": "discharge_capacity",
        "charge_wh": "charge_energy",
        "discharge_wh": "discharge_energy",
        "energy_efficiency": "energy_efficiency",
        "logged_resistance_ohm": "dc_internal_resistance",
    }
    return {
        int(row["cycle_index"]): {
            figure: float(row[name])
            for figure, name in figures.items()
            if not math.isnan(row[name])
        }
        for _, row in made.iterrows()
    }


if __name__ == "__main__":
    print(json.dumps({
        "cycles": summary(read(sys.argv[1]), json.loads(sys.argv[2])["nominal_ah"])
    }))  # fmt: skip
