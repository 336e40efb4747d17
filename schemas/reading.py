"""The canonical reading and the job's other tables: the one definition every form derives from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The logical types a column can have; `schemas.forms` says what each is in every system."""

    STRING = "string"
    INTEGER = "integer"
    DOUBLE = "double"
    TIMESTAMP = "timestamp"  # microseconds, UTC
    BYTES = "bytes"
    STRINGS = "strings"  # list of string, never null
    JSON = "json"  # a JSON object as text
    BOOLEAN = "boolean"


@dataclass(frozen=True)
class Field:
    """One column: its name, logical type, unit, and what it means.

    `required` columns are never null. `derived` columns are computed by the job: a source's
    value for them is not taken over.
    """

    name: str
    kind: Kind
    description: str
    unit: str | None = None
    required: bool = False
    derived: bool = False


@dataclass(frozen=True)
class Table:
    """A table of the warehouse: its columns, the key that makes a replay harmless, its layout."""

    name: str
    description: str
    fields: tuple[Field, ...]
    key: str
    partition: str | None = None
    cluster: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The column names in order."""
        return [field.name for field in self.fields]

    def field(self, name: str) -> Field:
        """The column called `name`; KeyError if there is none."""
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(f"table {self.name} has no column {name!r}; it has {', '.join(self.names)}")


_S, _I, _D, _T = Kind.STRING, Kind.INTEGER, Kind.DOUBLE, Kind.TIMESTAMP
_B = Kind.BOOLEAN

READING = Table(
    name="readings",
    description="One measurement of one equipment, validated and enriched.",
    key="reading_id",
    partition="recorded_at",
    cluster=("equipment_id", "test_id"),
    fields=(
        Field(
            "reading_id",
            _S,
            "Stable over replays: 128-bit hash of equipment, time, test time and record index, "
            "with the measured values where there is no record index.",
            required=True,
            derived=True,
        ),
        Field("equipment_id", _S, "The cell or machine that was measured.", required=True),
        Field("equipment_type", _S, "battery_cell or machine.", required=True),
        Field("test_id", _S, "The session the counters belong to; null for machines."),
        Field("recorded_at", _T, "Event time of the measurement, UTC.", required=True),
        Field("streamed_at", _T, "When the producer sent the reading, UTC."),
        Field(
            "ingested_at",
            _T,
            "When the reading arrived where the job reads it: the broker's timestamp, the "
            "publish time or the file's modification time, UTC.",
            required=True,
        ),
        Field("source_file", _S, "The file the reading came from, with its folder."),
        Field(
            "source_row",
            _I,
            "The row's place in that file; keeps rows of one moment in the file's order.",
        ),
        Field("record_index", _I, "The cycler's running number of the record."),
        Field("test_time_s", _D, "Seconds since the test began.", "s"),
        Field("step_time_s", _D, "Seconds since the step began.", "s"),
        Field("cycle_index", _I, "The cycler's cycle number; restarts with the test."),
        Field("step_index", _I, "The cycler's step number in its schedule."),
        Field("voltage_v", _D, "Terminal voltage.", "V", required=True),
        Field("current_a", _D, "Current; positive charges the cell.", "A", required=True),
        Field("charge_capacity_ah", _D, "The cycler's charge counter.", "Ah"),
        Field("discharge_capacity_ah", _D, "The cycler's discharge counter.", "Ah"),
        Field("charge_energy_wh", _D, "The cycler's charged-energy counter.", "Wh"),
        Field("discharge_energy_wh", _D, "The cycler's discharged-energy counter.", "Wh"),
        Field("internal_resistance_ohm", _D, "Internal resistance as the cycler gave it.", "Ohm"),
        Field("temperature_c", _D, "Surface temperature of the equipment.", "degC"),
        Field("ambient_temperature_c", _D, "Temperature of the surroundings.", "degC"),
        Field("frequency_hz", _D, "Supply or rotation frequency of a machine.", "Hz"),
        Field("power_watt", _D, "voltage_v times current_a, signed.", "W", derived=True),
        Field(
            "time_delta_s",
            _D,
            "Seconds since the same equipment's previous reading of the same test; null for the "
            "first one and for a late one.",
            "s",
            derived=True,
        ),
        Field(
            "quality_flags",
            Kind.STRINGS,
            "Names of the rules the reading broke without being rejected, in alphabetical order.",
            required=True,
            derived=True,
        ),
        Field("extra", Kind.JSON, "Fields the reading has no column for, as they came."),
        Field(
            "content_id",
            _I,
            "Hash of the reading_id and the measured values with cycle and step, to ten digits. "
            "The same reading_id with another content_id is another version of the reading: a "
            "correction.",
            derived=True,
        ),
    ),
)

READING_SUPERSEDED = Table(
    name="readings_superseded",
    description="Versions of readings that do not count, because another version of the same "
    "reading does.",
    key="version_id",
    partition="recorded_at",
    cluster=("equipment_id", "test_id"),
    fields=(
        Field("version_id", _S, "reading_id and content_id of this version.", required=True),
        *READING.fields,
        Field("superseded_by", _I, "content_id of the version that counts instead."),
        Field("superseded_by_file", _S, "The file that version came from, with its folder."),
        Field("superseded_by_ingested_at", _T, "When that version arrived, UTC."),
    ),
)

DEAD_LETTER = Table(
    name="dead_letters",
    description="One message, row or file that could not become a reading, with the reason.",
    key="dead_letter_id",
    partition="ingested_at",
    cluster=("error_type",),
    fields=(
        Field(
            "dead_letter_id",
            _S,
            "Stable over replays: hash of source, position, payload and error.",
            required=True,
        ),
        Field("step", _S, "The step that refused it: read, decode or validate.", required=True),
        Field("error_type", _S, "Name of the rule it broke.", required=True),
        Field("error_message", _S, "What was wrong, for a person.", required=True),
        Field("field", _S, "The field that broke the rule, where one did."),
        Field("source", _S, "The source as configured, without secrets.", required=True),
        Field("source_file", _S, "The file it came from, with its folder."),
        Field("position", _S, "Where in the source it stood: record, line or offset."),
        Field("message_key", Kind.BYTES, "The message's key."),
        Field("attributes", Kind.JSON, "The message's attributes or headers."),
        Field("payload", Kind.BYTES, "The message as it came; a table's row as a JSON object."),
        Field("equipment_id", _S, "The equipment, where it could be told."),
        Field("ingested_at", _T, "When it arrived where the job reads it, UTC.", required=True),
    ),
)

WINDOW_STATS = Table(
    name="window_stats",
    description="What one equipment did in one event-time window; late panes stand beside.",
    key="stats_id",
    partition="window_start",
    cluster=("equipment_id",),
    fields=(
        Field("stats_id", _S, "Hash of equipment, window and readings.", required=True),
        Field("equipment_id", _S, "The cell or machine.", required=True),
        Field("equipment_type", _S, "battery_cell or machine.", required=True),
        Field("window_start", _T, "Start of the window, inclusive, UTC.", required=True),
        Field("window_end", _T, "End of the window, exclusive, UTC.", required=True),
        Field("readings", _I, "Readings in the window.", required=True),
        Field("voltage_min_v", _D, "Lowest voltage.", "V"),
        Field("voltage_mean_v", _D, "Mean voltage over readings.", "V"),
        Field("voltage_max_v", _D, "Highest voltage.", "V"),
        Field("current_min_a", _D, "Lowest current.", "A"),
        Field("current_mean_a", _D, "Mean current over readings.", "A"),
        Field("current_max_a", _D, "Highest current.", "A"),
        Field("temperature_min_c", _D, "Lowest temperature.", "degC"),
        Field("temperature_mean_c", _D, "Mean temperature over readings that have one.", "degC"),
        Field("temperature_max_c", _D, "Highest temperature.", "degC"),
        Field("charge_ah", _D, "Charge that went in, by integration.", "Ah", required=True),
        Field("discharge_ah", _D, "Charge that came out, by integration.", "Ah", required=True),
        Field("charge_wh", _D, "Energy that went in, by integration.", "Wh", required=True),
        Field("discharge_wh", _D, "Energy that came out, by integration.", "Wh", required=True),
        Field("flagged_readings", _I, "Readings with a quality flag.", required=True),
        Field("quality_flags", Kind.STRINGS, "The flags that occurred.", required=True),
    ),
)

EQUIPMENT_PROFILE = Table(
    name="equipment_profiles",
    description="The bounds and nominal values the job used, a row per profile.",
    key="profile",
    fields=(
        Field("profile", _S, "Name of the profile.", required=True),
        Field("priority", _I, "The lowest that matches an equipment wins.", required=True),
        Field(
            "equipment_pattern",
            _S,
            "Anchored regular expression (RE2) on equipment_id.",
            required=True,
        ),
        Field("equipment_type", _S, "battery_cell or machine.", required=True),
        Field("chemistry", _S, "Cell chemistry."),
        Field("nominal_capacity_ah", _D, "Rated capacity of the cell.", "Ah"),
        Field("rated_current_a", _D, "Highest current in normal use.", "A"),
        Field("v_min_v", _D, "Lower limit of the operating voltage.", "V"),
        Field("v_max_v", _D, "Upper limit of the operating voltage.", "V"),
        Field("cutoff_current_a", _D, "Current at which constant-voltage charge ends.", "A"),
        Field("nominal_frequency_hz", _D, "Nominal frequency of a machine.", "Hz"),
        Field("temperature_min_c", _D, "Lower limit of the operating temperature.", "degC"),
        Field("temperature_max_c", _D, "Upper limit of the operating temperature.", "degC"),
        Field("gap_s", _D, "Longest normal time between two readings.", "s", required=True),
        Field(
            "gap_cv_s",
            _D,
            "The same during constant-voltage charge, where cyclers log by current.",
            "s",
            required=True,
        ),
    ),
)

TEST_DIALECT = Table(
    name="test_dialects",
    description="How the file of a test was read, and how well its witnesses agree; a row per "
    "equipment, test and file.",
    key="dialect_id",
    cluster=("equipment_id",),
    fields=(
        Field("dialect_id", _S, "Hash of equipment, test, file and decision.", required=True),
        Field("equipment_id", _S, "The cell or machine.", required=True),
        Field("test_id", _S, "The test, as its readings name it."),
        Field("source_file", _S, "The file, with its folder."),
        Field("dialect", _S, "The cycler or tool whose layout it is, as far as known."),
        Field(
            "columns_used",
            Kind.JSON,
            "Per field the source's column, the unit found, the factor to the field's unit, and why.",
            required=True,
        ),
        Field("columns_left", Kind.JSON, "Names of the columns kept in extra, as a JSON object."),
        Field(
            "current_sign",
            _S,
            "positive_charges, positive_discharges, or from_state where the current has no sign.",
            required=True,
        ),
        Field("clock", _S, "Where elapsed time comes from.", required=True),
        Field("event_time", _S, "Where event time comes from.", required=True),
        Field("date_order", _S, "mdy, dmy or ymd; null where dates need none."),
        Field("counter_grain", _S, "What the capacity counters restart with: test, cycle or step."),
        Field("sampling_interval_s", _D, "Median time between two rows.", "s"),
        Field("witnesses", Kind.JSON, "Per witness what it says and how well it agrees."),
        Field(
            "disagreements",
            Kind.STRINGS,
            "What remains in doubt, by name; see schemas.reading.DISAGREEMENTS.",
            required=True,
        ),
        Field("ingested_at", _T, "When the file arrived, UTC.", required=True),
    ),
)

CYCLE_SUMMARY = Table(
    name="cycle_summaries",
    description="What the cycler's own statistics say of a cycle: a witness, never a reading.",
    key="summary_id",
    cluster=("equipment_id",),
    fields=(
        Field("summary_id", _S, "Hash of equipment, file, cycle and values.", required=True),
        Field("equipment_id", _S, "The cell.", required=True),
        Field("source_file", _S, "The file it stood in, with its folder."),
        Field("cycle_index", _I, "The cycler's cycle number.", required=True),
        Field("recorded_at", _T, "When the cycle ended, where the summary says so, UTC."),
        Field("charge_ah", _D, "Charge that went in.", "Ah"),
        Field("discharge_ah", _D, "Charge that came out.", "Ah"),
        Field("charge_wh", _D, "Energy that went in.", "Wh"),
        Field("discharge_wh", _D, "Energy that came out.", "Wh"),
        Field("ingested_at", _T, "When the file arrived, UTC.", required=True),
    ),
)

SOURCE_POSITION = Table(
    name="source_positions",
    description="What a run read of its source, from where to where, and what it passed and why: "
    "a row per stretch of a partition or per file, and one per reason of what gave no message.",
    key="position_id",
    cluster=("source", "topic"),
    fields=(
        Field(
            "position_id",
            _S,
            "Hash of run, source, topic, its log, partition, first offset and reason.",
            required=True,
        ),
        Field("run_id", _S, "The run of the job.", required=True),
        Field("source", _S, "The source as configured, without secrets.", required=True),
        Field("topic", _S, "The topic, subscription or file.", required=True),
        Field(
            "log_id", _S, "Cluster and topic id, which tell a topic from a later one of its name."
        ),
        Field(
            "partition_number",
            _I,
            "The topic's partition; the reader's number where several share a subscription.",
        ),
        Field(
            "first_offset",
            _I,
            "The first offset of the stretch; the run's own count where messages have none, and that "
            "of a file's rows.",
        ),
        Field("last_offset", _I, "The last offset of the stretch, inclusive."),
        Field(
            "messages_read",
            _I,
            "Messages or rows that were read of it, refused ones among them.",
            required=True,
        ),
        Field(
            "offsets_skipped",
            _I,
            "Offsets of it that gave no message; 0 where that is not known.",
            required=True,
        ),
        Field(
            "reason",
            _S,
            "Why offsets gave no message; see schemas.reading.SKIPPED. Null of what was read.",
        ),
        Field("began_at", _T, "When reading it began, UTC.", required=True),
        Field("ended_at", _T, "When this was written down, UTC.", required=True),
    ),
)

CYCLES_LIVE = Table(
    name="cycles_live",
    description="What a cell's cycle was worth, as the stream knew it the moment the cycle ended; a "
    "cycle that readings came late for has a row for each version. battery_cycles judges with the "
    "whole record before it.",
    key="version_id",
    partition="started_at",
    cluster=("equipment_id",),
    fields=(
        Field("version_id", _S, "Hash of cycle_id and of the cycle's readings.", required=True),
        Field("cycle_id", _S, "Hash of equipment, test, cycle index and restarts.", required=True),
        Field("version", _I, "1, then one more with each correction.", required=True),
        Field("equipment_id", _S, "The cell.", required=True),
        Field("test_id", _S, "The session the counters belong to."),
        Field(
            "cycle_index",
            _I,
            "The cycler's cycle number, or the number of the swing of charge in the test.",
            required=True,
        ),
        Field(
            "cycle_restarts",
            _I,
            "How often the cycle number had fallen back to the start within the test.",
            required=True,
        ),
        Field(
            "cycle_number",
            _I,
            "The how manieth of the cell's cycles it is in this stream.",
            required=True,
        ),
        Field("is_cycle_derived", _B, "Whether the cycler gave no cycle number.", required=True),
        Field("is_ended", _B, "False where the input ended before the cycle did.", required=True),
        Field(
            "is_whole",
            _B,
            "Whether the stream has had all of it: not where it began to listen in the middle, nor "
            "where the cycle had more readings than are kept.",
            required=True,
        ),
        Field("started_at", _T, "Time of the first reading, UTC.", required=True),
        Field("ended_at", _T, "Time of the last reading, UTC.", required=True),
        Field("duration_s", _D, "Sum of the time deltas.", "s", required=True),
        Field("readings", _I, "Readings of the cycle, without impedance spectra.", required=True),
        Field("charge_ah", _D, "Charge that went in.", "Ah", required=True),
        Field("discharge_ah", _D, "Charge that came out.", "Ah", required=True),
        Field("charge_wh", _D, "Energy that went in.", "Wh", required=True),
        Field("discharge_wh", _D, "Energy that came out.", "Wh", required=True),
        Field("charge_method", _S, "counter or integrated.", required=True),
        Field(
            "is_full",
            _B,
            "Whether charge and discharge went from limit to limit of the profile; null where it "
            "names none.",
        ),
        Field("coulombic_efficiency", _D, "discharge_ah over charge_ah; null where not is_full."),
        Field(
            "energy_efficiency",
            _D,
            "discharge_wh over charge_wh; null where the cycle neither is_full nor comes back to where "
            "it began.",
        ),
        Field("v_min_v", _D, "Lowest voltage.", "V", required=True),
        Field("v_max_v", _D, "Highest voltage.", "V", required=True),
        Field("charge_end_voltage_v", _D, "Highest voltage of its charge steps.", "V"),
        Field("discharge_end_voltage_v", _D, "Lowest voltage of its discharge steps.", "V"),
        Field(
            "cv_end_current_a", _D, "Current at the end of the last step that held a voltage.", "A"
        ),
        Field(
            "dc_resistance_10s_ohm",
            _D,
            "Change of voltage over change of current 10 s into the discharge.",
            "Ohm",
        ),
        Field("dc_resistance_30s_ohm", _D, "The same 30 s into it.", "Ohm"),
        Field("internal_resistance_ohm", _D, "Mean over time of what the cycler measured.", "Ohm"),
        Field("temperature_mean_c", _D, "Mean temperature over time.", "degC"),
        Field("temperature_min_c", _D, "Lowest temperature.", "degC"),
        Field("temperature_max_c", _D, "Highest temperature.", "degC"),
        Field("ambient_temperature_mean_c", _D, "Mean of the surroundings over time.", "degC"),
        Field("charge_peak_v", _D, "Voltage of the highest dQ/dV peak of the charge.", "V"),
        Field("charge_peak_ah_per_v", _D, "Its height.", "Ah/V"),
        Field("discharge_peak_v", _D, "Voltage of the highest dQ/dV peak of the discharge.", "V"),
        Field("discharge_peak_ah_per_v", _D, "Its height.", "Ah/V"),
        Field(
            "voltage_time_s",
            Kind.JSON,
            "Seconds that the voltage was in each 0.1 V, by the lower end of it.",
        ),
        Field("gaps", _I, "Intervals in which readings are missing.", required=True),
        Field("flagged_readings", _I, "Readings with a quality flag.", required=True),
        Field(
            "throughput_ah",
            _D,
            "Charge in and out of the cell since its first reading in this stream.",
            "Ah",
            required=True,
        ),
    ),
)

PREDICTION = Table(
    name="predictions",
    description="What a model said of a cell's health and remaining life when a cycle had ended: a "
    "row per cell, cycle and version of the model.",
    key="prediction_id",
    partition="cycle_ended_at",
    cluster=("equipment_id",),
    fields=(
        Field("prediction_id", _S, "Hash of cycle_id and the model's version.", required=True),
        Field("equipment_id", _S, "The cell.", required=True),
        Field("cycle_id", _S, "The cycle in cycles_live.", required=True),
        Field("cycle_number", _I, "The how manieth of the cell's cycles it is.", required=True),
        Field("cycle_ended_at", _T, "When that cycle ended, UTC.", required=True),
        Field("made_at", _T, "When the prediction was made, UTC.", required=True),
        Field("model", _S, "The model's name.", required=True),
        Field("model_version", _S, "Hash of the model's content.", required=True),
        Field("soh", _D, "State of health: capacity over the cell's own first; null: not known."),
        Field("soh_low", _D, "Lower end of its 90 % interval."),
        Field("soh_high", _D, "Upper end of its 90 % interval."),
        Field("soh_method", _S, "What the state of health follows from."),
        Field("remaining_cycles", _D, "Cycles until the threshold; null: not known.", "cycles"),
        Field("remaining_cycles_low", _D, "Lower end of its 90 % interval.", "cycles"),
        Field("remaining_cycles_high", _D, "Upper end; null: open.", "cycles"),
        Field("threshold_soh", _D, "The state of health at which life ends.", required=True),
        Field("end_of_life_at", _T, "When it ends at the pace of the last cycles, UTC."),
        Field("end_of_life_low_at", _T, "Earliest end of its 90 % interval, UTC."),
        Field("end_of_life_high_at", _T, "Latest end; null: open, UTC."),
        Field("knee_risk", _D, "Probability, 0 to 1, that the fade is about to accelerate."),
        Field(
            "out_of_domain",
            _B,
            "Whether the cell is outside of what the model was trained on; then it says nothing.",
            required=True,
        ),
        Field(
            "reasons",
            Kind.STRINGS,
            "Why something is null or in doubt, in words.",
            required=True,
        ),
    ),
)

TABLES = (
    READING, READING_SUPERSEDED, DEAD_LETTER, WINDOW_STATS, EQUIPMENT_PROFILE, TEST_DIALECT,
    CYCLE_SUMMARY, SOURCE_POSITION, CYCLES_LIVE, PREDICTION,
)  # fmt: skip

# Why an offset may give no message. The first two may have cost messages.
SKIPPED = (
    "retention",  # the broker had deleted it before it was read
    "truncated",  # the log is not the one that was read before: made anew, restored or cut off
    "compaction",  # a later message of the key stands for it
    "missing",  # it is not there, though the topic is not compacted
    "aborted_transaction",
    "control",  # the end of a transaction
    "open_transaction",  # not committed within the time that was waited; the next run reads it
)

EQUIPMENT_TYPES = ("battery_cell", "machine")

# The bit of each flag in the job's internal mask is its position here; the order is the
# alphabet's, so that a row's list of names is sorted whichever rules it broke.
QUALITY_FLAGS = (
    "binary_id",
    "clock_disagrees",
    "counter_dip",
    "counter_jump",
    "counter_reset",
    "current_out_of_range",
    "direction_disagrees",
    "event_time_assumed",
    "frequency_out_of_range",
    "gap",
    "impedance",
    "late",
    "stuck",
    "superseded",
    "temperature_out_of_range",
    "voltage_out_of_range",
)

# What can remain in doubt of a test's file after its witnesses were compared.
DISAGREEMENTS = (
    "charge_disagrees",  # integral of the current and counters, or the cycler's own summary
    "clock_disagrees",  # test clock and wall clock
    "date_order_guessed",  # day and month could be the other way round
    "direction_disagrees",  # sign of the current and states, counters or voltage
    "direction_guessed",  # nothing in the file says what a positive current does
    "identity_guessed",  # the cell was guessed from a name that says little, or two names differ
    "time_assumed",  # no date, or a clock that was never set: the file's modification time was used
    "unit_guessed",  # a unit is not given and nothing in the file confirms it
)

COUNTERS = (
    "charge_capacity_ah",
    "discharge_capacity_ah",
    "charge_energy_wh",
    "discharge_energy_wh",
)
