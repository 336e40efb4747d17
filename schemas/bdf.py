"""The Battery Data Format 1.3: its terms, every spelling they had, and the reading's fields.

Source: the format's own ontology and table schema (github.com/battery-data-alliance/
battery-data-format-ontology, versions 1.0 to 1.3; term = IRI fragment, label = skos:prefLabel,
older spellings = skos:altLabel, deprecated terms and titles of the table schema) and its Python
package's labels before 1.0. The format fixes the sign (positive current charges) and the units.
"""

from __future__ import annotations

from dataclasses import dataclass

VERSION = "1.3"
NAMESPACE = "https://w3id.org/battery-data-alliance/ontology/battery-data-format#"

# Since when a counter counts: the format has a term for each.
TEST, CYCLE, STEP, SCHEDULE = "test", "cycle", "step", "schedule"
SCOPES = (SCHEDULE, TEST, CYCLE, STEP)


@dataclass(frozen=True)
class Label:
    """One spelling of a column: value in the term's unit = value × scale.

    `unit` is the unit that the spelling states, as the format writes it; "" where it states none.
    """

    text: str
    unit: str
    scale: float = 1.0


@dataclass(frozen=True)
class Term:
    """One quantity of the format.

    Attributes:
        name: the machine-readable name, which is the end of the term's IRI.
        label: the preferred label, a header of a table.
        unit: the unit, as the label writes it; "" for text.
        field: the reading's field that it is, or None where the reading has none.
        scope: what a counter restarts with; "" for what is no counter.
        older: further spellings that files carry, from other versions or the ontology's altLabels.
        required: whether a table must have it.
    """

    name: str
    label: str
    unit: str
    field: str | None = None
    scope: str = ""
    older: tuple[Label, ...] = ()
    required: bool = False

    @property
    def iri(self) -> str:
        """The term's address in the format's ontology."""
        return NAMESPACE + self.name

    @property
    def labels(self) -> tuple[Label, ...]:
        """Every spelling, the preferred label first and the machine-readable name second."""
        return (Label(self.label, self.unit), Label(self.name, self.unit), *self.older)


def _same(unit: str, *texts: str) -> tuple[Label, ...]:
    return tuple(Label(text, unit) for text in texts)


def _counters() -> tuple[Term, ...]:
    """Charge and energy in each direction, since each of the four kinds of restart."""
    found = []
    for scope in SCOPES:
        head, prefix = ("", "") if scope == TEST else (f"{scope.title()} ", f"{scope}_")
        for quantity, unit, spelled in (("capacity", "Ah", "ampere_hour"),
                                        ("energy", "Wh", "watt_hour")):  # fmt: skip
            for going, field in (("charging", "charge"), ("discharging", "discharge")):
                name = f"{prefix}{going}_{quantity}"
                older = [f"{name}_{spelled}"]
                if prefix:
                    older.append(f"{prefix}{field}_{quantity}_{unit.lower()}")
                found.append(
                    Term(
                        f"{name}_{unit.lower()}",
                        f"{head}{going.title()} {quantity.title()} / {unit}",
                        unit,
                        f"{field}_{quantity}_{unit.lower()}",
                        scope,
                        _same(unit, *older),
                    )
                )
    return tuple(found)


def _temperatures() -> tuple[Term, ...]:
    """Auxiliary channels; where a file has one temperature without a place, it is channel 1."""
    found = []
    for channel in range(1, 6):
        older = [f"Surface Temperature T{channel} / degC", f"surface_temperature_t{channel}_celsius",
                 f"temperature_t{channel}_degc"]  # fmt: skip
        if channel == 1:
            older += ["Temperature / degC", "temperature_celsius"]
        field = "temperature_c" if channel == 1 else None
        found.append(
            Term(
                f"temperature_t{channel}_celsius",
                f"Temperature T{channel} / degC",
                "degC",
                field,
                older=_same("degC", *older),
            )
        )
    return tuple(found)


def _throughputs() -> tuple[Term, ...]:
    """Net and cumulative charge and energy: what the counters of both directions make."""
    found = []
    for scope in (TEST, CYCLE, STEP):
        head, prefix = ("", "") if scope == TEST else (f"{scope.title()} ", f"{scope}_")
        for quantity, unit, spelled in (("capacity", "Ah", "ampere_hour"),
                                        ("energy", "Wh", "watt_hour")):  # fmt: skip
            for what in ("net", "cumulative"):
                name = f"{prefix}{what}_{quantity}"
                older = [f"{name}_{spelled}"]
                if scope == STEP and what == "cumulative":  # named so until 1.0
                    older += [f"Step {quantity.title()} / {unit}",
                              f"step_{quantity}_{unit.lower()}", f"step_{quantity}_{spelled}"]  # fmt: skip
                found.append(
                    Term(
                        f"{name}_{unit.lower()}",
                        f"{head}{what.title()} {quantity.title()} / {unit}",
                        unit,
                        None,
                        scope,
                        _same(unit, *older),
                    )
                )
    return tuple(found)


# Where several terms are one field of ours, the earlier one is what the field means and the one
# to believe where a file has both.
TERMS: tuple[Term, ...] = (
    Term(
        "test_time_second",
        "Test Time / s",
        "s",
        "test_time_s",
        older=(
            Label("test_time_s", "s"),
            Label("Test Time / ms", "ms", 1e-3),
            Label("test_time_millisecond", "ms", 1e-3),
            Label("test_time_ms", "ms", 1e-3),
        ),
        required=True,
    ),
    Term(
        "voltage_volt",
        "Voltage / V",
        "V",
        "voltage_v",
        older=(
            Label("voltage_v", "V"),
            Label("Voltage / mV", "mV", 1e-3),
            Label("voltage_millivolt", "mV", 1e-3),
        ),
        required=True,
    ),
    Term(
        "current_ampere",
        "Current / A",
        "A",
        "current_a",
        older=(
            Label("current_a", "A"),
            Label("Current / mA", "mA", 1e-3),
            Label("current_milliampere", "mA", 1e-3),
        ),
        required=True,
    ),
    Term(
        "unix_time_second",
        "Unix Time / s",
        "s",
        "recorded_at",
        older=(
            Label("unix_time_s", "s"),
            Label("Unix Time / ms", "ms", 1e-3),
            Label("unix_time_millisecond", "ms", 1e-3),
            Label("unix_time_ms", "ms", 1e-3),
            Label("Date Time / ms", "ms", 1e-3),
            Label("date_time_millisecond", "ms", 1e-3),
        ),
    ),
    Term(
        "cycle_count",
        "Cycle Count / 1",
        "1",
        "cycle_index",
        older=_same("1", "cycle_count_1", "Cycle / 1", "cycle_dimensionless"),
    ),
    # The program's step, which may come again in every cycle: what cyclers call Step_Index.
    Term("step_id", "Step ID", "", "step_index"),
    # Counts the steps as they are done, and never restarts.
    Term(
        "step_count",
        "Step Count / 1",
        "1",
        "step_index",
        older=_same("1", "step_count_1", "Step / 1", "step_dimensionless"),
    ),
    Term("record_index", "Record Index / 1", "1", "record_index"),
    Term(
        "step_time_second",
        "Step Time / s",
        "s",
        "step_time_s",
        older=(
            Label("step_time_s", "s"),
            Label("Step Time / ms", "ms", 1e-3),
            Label("step_time_millisecond", "ms", 1e-3),
        ),
    ),
    Term(
        "surface_temperature_celsius",
        "Surface Temperature / degC",
        "degC",
        "temperature_c",
        older=_same("degC", "surface_temperature_degc"),
    ),
    *_temperatures(),
    Term(
        "ambient_temperature_celsius",
        "Ambient Temperature / degC",
        "degC",
        "ambient_temperature_c",
        older=_same("degC", "ambient_temperature_degc"),
    ),
    *_counters(),
    # "As reported by the instrument": which method, our reading does not know either.
    Term(
        "internal_resistance_ohm",
        "Internal Resistance / ohm",
        "ohm",
        "internal_resistance_ohm",
        older=_same("ohm", "Internal Resistance / Ohm"),
    ),
    Term(
        "dc_internal_resistance_ohm",
        "DC Internal Resistance / ohm",
        "ohm",
        "internal_resistance_ohm",
        older=_same("ohm", "dc_resistance_ohm", "dcir"),
    ),
    Term("frequency_hertz", "Frequency / Hz", "Hz", "frequency_hz"),
    Term("power_watt", "Power / W", "W", "power_watt", older=_same("W", "power_w")),
    *_throughputs(),
    Term(
        "ac_internal_resistance_ohm",
        "AC Internal Resistance / ohm",
        "ohm",
        older=_same("ohm", "ac_resistance_ohm", "acr"),
    ),
    # The row's number within its step. Until 1.2 its name was `step_index`, which many files carry
    # for the program's step instead: only the values tell (within a step it counts up by one).
    Term(
        "step_record_index",
        "Step Record Index / 1",
        "1",
        older=_same("1", "step_record_index_1", "Step Index / 1", "step_index", "step_index_1"),
    ),
    Term("step_type", "Step Type", "", older=_same("1", "Step Type / 1")),
    Term("ambient_pressure_pa", "Ambient Pressure / Pa", "Pa",
         older=_same("Pa", "ambient_pressure_pascal")),
    Term("applied_pressure_pa", "Applied Pressure / Pa", "Pa",
         older=_same("Pa", "applied_pressure_pascal")),
    Term("surface_pressure_pa", "Surface Pressure / Pa", "Pa",
         older=_same("Pa", "surface_pressure_pascal")),
    Term("absolute_impedance_ohm", "Absolute Impedance / ohm", "ohm"),
    Term("real_impedance_ohm", "Real Impedance / ohm", "ohm"),
    Term("imaginary_impedance_ohm", "Imaginary Impedance / ohm", "ohm"),
    Term("phase_degree", "Phase / deg", "deg"),
)  # fmt: skip

# Spellings that mean one term by the format's word and another in many files.
AMBIGUOUS = frozenset({"Step Index / 1", "step_index", "step_index_1"})

# Field of the reading: every spelling of every term that is this field, the best term first.
LABELS: dict[str, tuple[Label, ...]] = {}
for _term in TERMS:
    if _term.field is not None:
        LABELS[_term.field] = (*LABELS.get(_term.field, ()), *_term.labels)

# The format's own column for what the reading has no field for, by every spelling.
OTHER: dict[str, Term] = {
    label.text: term for term in TERMS if term.field is None for label in term.labels
}

# Columns of our own: the format allows further ones, described in the file's metadata. Their names
# are such that both forms are the field's own name to the reader.
OWN: tuple[Term, ...] = (
    Term("equipment_id", "Equipment ID", "", "equipment_id"),
    Term("equipment_type", "Equipment Type", "", "equipment_type"),
    Term("test_id", "Test ID", "", "test_id"),
    Term("source_row", "Source Row", "", "source_row"),
    Term("streamed_at", "Streamed At", "", "streamed_at"),
    Term("extra", "extra", "", "extra"),
)


def term(field: str, scope: str = SCHEDULE) -> Term:
    """The term that a field of the reading is written as.

    A counter is written as what it restarts with; `schedule` is right for every counter whose
    restarts are the test program's matter or are not known.

    Raises:
        KeyError: the format has no place for the field.
    """
    for candidate in (*TERMS, *OWN):
        if candidate.field == field and candidate.scope in ("", scope):
            return candidate
    raise KeyError(f"the Battery Data Format has no term for {field!r}")
