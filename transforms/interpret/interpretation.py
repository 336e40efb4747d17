"""What was decided about a test's file: which column means what, its units, sign and clocks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from transforms.convert import Notation

# Why a second column stands for a field: its values count where the better one has none.
SECOND = "where the better one is empty"
# Why a column stands for a field, or has its unit, where the user says so.
TOLD = "told"


class Sign(StrEnum):
    """What a positive current does, and what gives the direction if it has no sign."""

    POSITIVE_CHARGES = "positive_charges"
    POSITIVE_DISCHARGES = "positive_discharges"
    FROM_STATE = "from_state"
    FROM_COUNTERS = "from_counters"


class Kept(StrEnum):
    """What a column of capacity or energy counts."""

    CHARGE = "charge"  # what went in; never falls but at a restart
    DISCHARGE = "discharge"  # what came out; never falls but at a restart
    UNSIGNED = "unsigned"  # what flowed in the direction of the step, never negative
    NET_CHARGE = "net_charge"  # rises on charge, falls on discharge
    NET_DISCHARGE = "net_discharge"  # rises on discharge, falls on charge


@dataclass(frozen=True)
class Use:
    """A source's column and what it was taken for.

    value in the field's unit = value in the file x scale + offset.

    Attributes:
        column: the source's own name.
        field: field of `schemas.reading.READING`, or `state` or `clock_of_day`.
        unit: as the file or the values say it, for a person.
        scale: the factor.
        offset: what is added after that.
        why: what decided it, for a person: `name`, `unit row`, `wall clock`, `integral`, `told`.
        kept: what a counter counts; None for other fields.
    """

    column: str
    field: str
    unit: str = ""
    scale: float = 1.0
    offset: float = 0.0
    why: str = "name"
    kept: Kept | None = None


@dataclass(frozen=True)
class Witness:
    """What one part of the file says of something that another part says too.

    Attributes:
        about: `direction`, `clock`, `unit`, `identity`, `step`, `charge`, `discharge`, `energy`,
            `energy charge`, `energy discharge`.
        name: the column or source of it, such as `Step Type` or `integral of the current`.
        agreement: 0 (contradicts) to 1 (agrees), or the ratio of the two estimates.
        text: for a person.
    """

    about: str
    name: str
    agreement: float
    text: str = ""


@dataclass(frozen=True)
class Interpretation:
    """How the rows of one file are to be understood; the same for all of them.

    Attributes:
        uses: one per field that the file has.
        left: names of the columns that stand for no field; their values are kept in `extra`.
        refused: (column, why) of columns whose name is known and whose unit or values are not.
        dialect: the cycler or tool whose layout it is; None if not known.
        sign: what a positive current does.
        notation: how numbers are written, where some have commas.
        order: `file`, `record` or `reversed`: the order in which the rows were measured.
        day_first: whether day comes before month where neither is above 12; None if no matter.
        clock: the column of elapsed time, for a person.
        event_time: the source of event time, for a person.
        start_us: when the test began, where only the file's head says so; else None.
        counter_grain: `test`, `cycle` or `step`; None without counters.
        sampling_s: median time between two rows; None if not known.
        typical_current_a: a large current of the file; what is much smaller is noise.
        in_order: whether rows have to be read one after another (clock set back, net counters,
            rows that look alike), so that the file can't be cut to parts.
        by_runs: whether the test's clock starts again with each step or cycle, so that its runs
            have to be added up.
        wall_of_runs: whether event time says when such a run began, and its clock the rest.
        standard_time: whether the clock stays on the zone's standard time all year.
        counted: whether rows of one moment are distinguished by counting them, so that the file is
            to be cut between moments only.
        compared: whether witnesses were compared; not in tables that this job wrote itself.
        open_circuit: whether the file has no current because none flowed.
        is_cell: whether what was measured is certainly a cell; None leaves it to the profiles.
        witnesses: what was compared.
        disagreements: names of `schemas.reading.DISAGREEMENTS`.
    """

    uses: tuple[Use, ...] = ()
    left: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    dialect: str | None = None
    sign: Sign = Sign.POSITIVE_CHARGES
    notation: Notation | None = None
    order: str = "file"
    day_first: bool | None = None
    clock: str = "none"
    event_time: str = "none"
    start_us: int | None = None
    counter_grain: str | None = None
    sampling_s: float | None = None
    typical_current_a: float | None = None
    in_order: bool = False
    by_runs: bool = False
    wall_of_runs: bool = False
    standard_time: bool = False
    counted: bool = False
    compared: bool = True
    open_circuit: bool = False
    is_cell: bool | None = None
    witnesses: tuple[Witness, ...] = ()
    disagreements: tuple[str, ...] = ()

    @property
    def date_order(self) -> str | None:
        """`dmy` or `mdy`; None where no date needs it."""
        return None if self.day_first is None else "dmy" if self.day_first else "mdy"

    def use_of(self, field: str) -> Use | None:
        """The column that stands for a field, or None."""
        return next((use for use in self.uses if use.field == field), None)


@dataclass(frozen=True)
class Head:
    """What stands in a file outside its table: titles, `key: value` lines, header records.

    Attributes:
        values: by lower-case key.
        dialect: whose layout the head is, where it says so.
        start: text of the time the test began.
        equipment: the cell that it names.
    """

    values: tuple[tuple[str, str], ...] = ()
    dialect: str | None = None
    start: str | None = None
    equipment: str | None = None


def as_json(interpretation: Interpretation) -> dict[str, Any]:
    """The decision as plain values, for a table or `--json`."""
    uses = {
        f"{use.field} ({use.column})" if use.why == SECOND else use.field: {
            "column": use.column,
            "unit": use.unit,
            "factor": use.scale,
            **({"offset": use.offset} if use.offset else {}),
            **({"counts": use.kept.value} if use.kept else {}),
            "why": use.why,
        }
        for use in interpretation.uses
    }
    return {
        "dialect": interpretation.dialect,
        "columns": uses,
        "left": list(interpretation.left),
        "refused": dict(interpretation.refused),
        "current_sign": interpretation.sign.value,
        "clock": interpretation.clock,
        "event_time": interpretation.event_time,
        "date_order": interpretation.date_order,
        "numbers": interpretation.notation.value if interpretation.notation else None,
        "counter_grain": interpretation.counter_grain,
        "sampling_interval_s": interpretation.sampling_s,
        "witnesses": [
            {"about": w.about, "witness": w.name, "agreement": w.agreement, "text": w.text}
            for w in interpretation.witnesses
        ],
        "disagreements": list(interpretation.disagreements),
    }
