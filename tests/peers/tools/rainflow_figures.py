"""Equivalent full cycles of a cycler's file by the rainflow package, as JSON."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import rainflow

if __name__ == "__main__":
    nominal_ah = json.loads(sys.argv[2])["nominal_ah"]
    with Path(sys.argv[1]).open(newline="") as file:
        # state of charge, in cells' worths, but for where it starts
        charge = [
            (float(row["Charge_Capacity(Ah)"]) - float(row["Discharge_Capacity(Ah)"])) / nominal_ah
            for row in csv.DictReader(file)
        ]
    print(json.dumps({
        "equivalent_full_cycles": sum(
            depth * count for depth, count in rainflow.count_cycles(charge)
        )
    }))  # fmt: skip
