"""Prints the runbook's tables of costs and sizes.

python deploy/cost
"""

from __future__ import annotations

import limits
import month
import scale

if __name__ == "__main__":
    print(month.tables(), scale.tables(), limits.table(), sep="\n\n")
