import pytest

from schemas import bdf
from schemas.aliases import Alias, normalise, resolve
from schemas.reading import COUNTERS, READING

# What the format has no place for: the job's own book-keeping, and what it derives.
_NO_TERM = {
    "reading_id",
    "content_id",
    "ingested_at",
    "source_file",
    "time_delta_s",
    "quality_flags",
}
_UNITS = {"s": "s", "V": "V", "A": "A", "Ah": "Ah", "Wh": "Wh", "Ohm": "ohm", "degC": "degC",
          "Hz": "Hz", "W": "W"}  # fmt: skip


def test_every_field_has_a_term_or_a_reason_to_have_none():
    fields = {term.field for term in (*bdf.TERMS, *bdf.OWN)} - {None}

    assert fields | _NO_TERM == set(READING.names)
    assert not fields & _NO_TERM


@pytest.mark.parametrize("field", [field for field in READING.fields if field.unit])
def test_a_terms_unit_is_the_fields(field):
    if field.name not in _NO_TERM:
        for scope in bdf.SCOPES:
            assert bdf.term(field.name, scope).unit == _UNITS[field.unit]


def test_terms_are_named_once():
    names = [term.name for term in (*bdf.TERMS, *bdf.OWN)]
    labels = [label.text for term in bdf.TERMS for label in term.labels]

    assert len(set(names)) == len(names)
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("term", bdf.OWN, ids=lambda term: term.name)
def test_columns_of_our_own_are_fields_to_the_reader_under_both_names(term):
    assert [resolve(label.text) for label in term.labels] == [Alias(term.field)] * 2 or (
        term.name == "extra" and [normalise(label.text) for label in term.labels] == ["extra"] * 2
    )


def test_two_spellings_that_the_reader_takes_for_one_are_one_term():
    by_spelling = {}
    for term in bdf.TERMS:
        for label in term.labels:
            key = normalise(label.text)
            assert by_spelling.setdefault(key, term.name) == term.name, label


def test_a_label_ends_in_its_unit():
    for term in (*bdf.TERMS, *bdf.OWN):
        assert term.label == term.label.split(" / ")[0] + (f" / {term.unit}" if term.unit else "")


@pytest.mark.parametrize("field", COUNTERS)
@pytest.mark.parametrize("scope", bdf.SCOPES)
def test_counters_have_a_term_for_what_they_restart_with(field, scope):
    term = bdf.term(field, scope)

    assert (term.field, term.scope) == (field, scope)
    assert term.name.startswith(scope) or scope == bdf.TEST


@pytest.mark.parametrize(
    ("field", "label", "name"),
    [
        ("test_time_s", "Test Time / s", "test_time_second"),
        ("voltage_v", "Voltage / V", "voltage_volt"),
        ("current_a", "Current / A", "current_ampere"),
        ("recorded_at", "Unix Time / s", "unix_time_second"),
        ("cycle_index", "Cycle Count / 1", "cycle_count"),
        ("step_index", "Step ID", "step_id"),
        ("step_time_s", "Step Time / s", "step_time_second"),
        ("record_index", "Record Index / 1", "record_index"),
        ("temperature_c", "Surface Temperature / degC", "surface_temperature_celsius"),
        ("ambient_temperature_c", "Ambient Temperature / degC", "ambient_temperature_celsius"),
        ("charge_capacity_ah", "Schedule Charging Capacity / Ah", "schedule_charging_capacity_ah"),
        ("discharge_energy_wh", "Schedule Discharging Energy / Wh",
         "schedule_discharging_energy_wh"),
        ("internal_resistance_ohm", "Internal Resistance / ohm", "internal_resistance_ohm"),
        ("frequency_hz", "Frequency / Hz", "frequency_hertz"),
    ],
)  # fmt: skip
def test_fields_are_written_as_the_terms_of_version_1_3(field, label, name):
    term = bdf.term(field)

    assert (term.label, term.name) == (label, name)
    assert term.iri.endswith(f"#{name}")


@pytest.mark.parametrize(
    ("text", "field", "scale"),
    [
        ("test_time_millisecond", "test_time_s", 1e-3),
        ("date_time_millisecond", "recorded_at", 1e-3),
        ("unix_time_ms", "recorded_at", 1e-3),
        ("cycle_dimensionless", "cycle_index", 1),
        ("current_milliampere", "current_a", 1e-3),
        ("charging_capacity_ampere_hour", "charge_capacity_ah", 1),
        ("cycle_discharge_energy_wh", "discharge_energy_wh", 1),
        ("Surface Temperature T1 / degC", "temperature_c", 1),
    ],
)
def test_spellings_of_earlier_versions_are_known_with_their_scale(text, field, scale):
    (label,) = [label for label in bdf.LABELS[field] if label.text == text]

    assert label.scale == scale


def test_the_row_within_a_step_is_no_step():
    assert bdf.OTHER["Step Index / 1"].name == "step_record_index"
    assert all(text in bdf.OTHER for text in bdf.AMBIGUOUS)
    assert not {label.text for label in bdf.LABELS["step_index"]} & bdf.AMBIGUOUS
