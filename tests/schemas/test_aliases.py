import pytest

from schemas import bdf
from schemas.aliases import WITNESSES, Alias, known_names, meaning, normalise, resolve
from schemas.reading import READING


@pytest.mark.parametrize(
    ("name", "field"),
    [
        # Arbin workbooks (CALCE)
        ("Data_Point", "record_index"),
        ("Test_Time(s)", "test_time_s"),
        ("Date_Time", "recorded_at"),
        ("Step_Time(s)", "step_time_s"),
        ("Step_Index", "step_index"),
        ("Cycle_Index", "cycle_index"),
        ("Current(A)", "current_a"),
        ("Voltage(V)", "voltage_v"),
        ("Charge_Capacity(Ah)", "charge_capacity_ah"),
        ("Discharge_Capacity(Ah)", "discharge_capacity_ah"),
        ("Charge_Energy(Wh)", "charge_energy_wh"),
        ("Discharge_Energy(Wh)", "discharge_energy_wh"),
        ("Internal_Resistance(Ohm)", "internal_resistance_ohm"),
        # CALCE's PL sample
        ("Time_sec", "test_time_s"),
        ("Current_Amp", "current_a"),
        ("Voltage_Volt", "voltage_v"),
        ("Charge_Ah", "charge_capacity_ah"),
        ("Discharge_Ah", "discharge_capacity_ah"),
        ("Charge_Wh", "charge_energy_wh"),
        # the older designs
        ("voltage(v)", "voltage_v"),
        ("current(a)", "current_a"),
        ("streamed_at", "streamed_at"),
        ("machine_id", "equipment_id"),
        ("cell_id", "equipment_id"),
        ("battery_id", "equipment_id"),
        ("timestamp", "recorded_at"),
        ("temperature", "temperature_c"),
        ("frequency", "frequency_hz"),
        ("charge_capacity_ah", "charge_capacity_ah"),
        # Battery Data Format 1.3: labels and machine names
        ("Test Time / s", "test_time_s"),
        ("Voltage / V", "voltage_v"),
        ("Current / A", "current_a"),
        ("Unix Time / s", "recorded_at"),
        ("Cycle Count / 1", "cycle_index"),
        ("Step Count / 1", "step_index"),
        ("Ambient Temperature / degC", "ambient_temperature_c"),
        ("Surface Temperature T1 / degC", "temperature_c"),
        ("test_time_second", "test_time_s"),
        ("voltage_volt", "voltage_v"),
        ("current_ampere", "current_a"),
        ("unix_time_second", "recorded_at"),
        ("cycle_count", "cycle_index"),
        ("step_count", "step_index"),
        ("step_id", "step_index"),
        ("schedule_charging_capacity_ah", "charge_capacity_ah"),
        ("schedule_discharging_capacity_ah", "discharge_capacity_ah"),
        ("surface_temperature_celsius", "temperature_c"),
        ("ambient_temperature_celsius", "ambient_temperature_c"),
        ("dc_internal_resistance_ohm", "internal_resistance_ohm"),
        # spelling
        ("  VOLTAGE [V] ", "voltage_v"),
        ("Internal Resistance (Ω)", "internal_resistance_ohm"),
        ("Internal Resistance (\u2126)", "internal_resistance_ohm"),
    ],
)
def test_names_met_in_real_files_are_understood_as_they_are(name, field):
    assert resolve(name) == Alias(field)


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("Charge_Capacity(mAh)", Alias("charge_capacity_ah", 1e-3)),
        ("Discharge Capacity / mA.h", Alias("discharge_capacity_ah", 1e-3)),
        ("voltage_mV", Alias("voltage_v", 1e-3)),
        ("Current (mA)", Alias("current_a", 1e-3)),
        ("Charge_Energy(mWh)", Alias("charge_energy_wh", 1e-3)),
        ("Discharge Energy (kWh)", Alias("discharge_energy_wh", 1e3)),
        ("DCIR (mOhm)", Alias("internal_resistance_ohm", 1e-3)),
        ("Test Time (h)", Alias("test_time_s", 3600.0)),
        ("time_min", Alias("test_time_s", 60.0)),
        ("step_time_ms", Alias("step_time_s", 1e-3)),
        ("timestamp_ms", Alias("recorded_at", 1e-3)),
        ("Temperature (K)", Alias("temperature_c", 1.0, -273.15)),
        ("ambient_temperature_kelvin", Alias("ambient_temperature_c", 1.0, -273.15)),
        ("frequency_kHz", Alias("frequency_hz", 1e3)),
        # every sign that stands for a millionth, and units in words
        ("Current(\u00b5A)", Alias("current_a", 1e-6)),
        ("Current(\u03bcA)", Alias("current_a", 1e-6)),
        ("Current(uA)", Alias("current_a", 1e-6)),
        ("Capacity_Chg [\u03bcAh]", Alias("charge_capacity_ah", 1e-6)),
        ("Current(mAmps)", Alias("current_a", 1e-3)),
        ("mAmps", Alias("current_a", 1e-3)),
        ("Current [mA]", Alias("current_a", 1e-3)),
        ("Current/mA", Alias("current_a", 1e-3)),
        ("<I>/mA", Alias("current_a", 1e-3)),
        ("CURRENT(MA)", Alias("current_a", 1e-3)),
        ("Test (Sec)", Alias("test_time_s")),
        ("Step (Min)", Alias("step_time_s", 60.0)),
        ("\u7535\u6d41(mA)", Alias("current_a", 1e-3)),
    ],
)
def test_units_scale_to_the_fields_own(name, alias):
    assert resolve(name) == alias


@pytest.mark.parametrize(
    "name",
    ["", "  ", "charge", "discharge", "time", "dV/dt(V/s)", "Is_FC_Data", "AC_Impedance(Ohm)",
     "cumulative_capacity_ah", "voltage_furlong", "power_watt", "Capacity(mAh/g)",
     "reading_id", "quality_flags", "extra"],
)  # fmt: skip
def test_other_names_stand_for_nothing(name):
    assert resolve(name) is None


def test_every_field_a_source_may_send_goes_by_its_own_name():
    for field in READING.fields:
        if not field.derived and field.name != "extra":
            assert resolve(field.name) == Alias(field.name)


def test_every_known_name_is_normal_and_leads_to_a_field():
    names = known_names()
    assert len(names) > 200
    for name, field in names.items():
        assert normalise(name) == name
        assert meaning(name).field == field
        assert field in WITNESSES or not READING.field(field).derived
    names.clear()
    assert known_names()


@pytest.mark.parametrize(
    ("name", "field", "unit"),
    [
        ("Current(furlong)", "current_a", "furlong"),
        ("Current (mA/cm2)", "current_a", "mA/cm2"),
        ("Voltage[xyz]", "voltage_v", "xyz"),
        ("Charge_Capacity(mAh/g)", "charge_capacity_ah", "mAh/g"),
    ],
)
def test_a_unit_that_is_not_understood_is_never_passed_over(name, field, unit):
    assert resolve(name) is None
    assert (meaning(name).field, meaning(name).unknown) == (field, unit)


def test_normal_spelling():
    assert normalise("Charge_Capacity (Ah)") == "charge_capacity_ah"
    assert normalise("R [Ω]") == "r_ohm"
    assert normalise("I/µA") == "i_ua"


@pytest.mark.parametrize(
    ("name", "field", "scale"),
    [
        ("cellVoltage", "voltage_v", 1.0),
        ("currentMilliAmps", "current_a", 0.001),
        ("chargeCapacityMAh", "charge_capacity_ah", 0.001),
        ("tempC", "temperature_c", 1.0),
        ("Curr(mA)", "current_a", 0.001),
        ("I /mA", "current_a", 0.001),
        ("E /V", "voltage_v", 1.0),
        ("Amp-Hours Discharge, AH", "discharge_capacity_ah", 1.0),
    ],
)
def test_words_that_run_together_and_short_names_with_a_unit_are_understood(name, field, scale):
    assert resolve(name) == Alias(field, scale)


@pytest.mark.parametrize("name", ["StepStatus", "Mode", "Work Mode", "Step Mode"])
def test_what_a_cycler_was_doing_has_many_names(name):
    assert meaning(name).field == "state"


@pytest.mark.parametrize("name", ["recNo", "relativeTime", "IRange", "powerKW", "dQdV"])
def test_words_that_run_together_mean_no_more_than_apart(name):
    assert resolve(name) is None


@pytest.mark.parametrize(
    ("name", "field", "scale"),
    [
        # the parts of a name after which its unit may stand
        ("Q charge/discharge/mA.h", "net_capacity", 1e-3),
        ("(Q-Qo)/mA.h", "net_capacity", 1e-3),
        ("Energy charge/W.h", "charge_energy_wh", 1.0),
        ("<Ewe>/V", "voltage_v", 1.0),
        ("control/V/mA", None, None),
        ("time/s", "test_time_s", 1.0),
        ("Time [s]", "test_time_s", 1.0),
        ("Time(h:min:s.ms)", "clock_of_day", 1.0),
        ("Prog Time", "test_time_s", None),
        ("t-Set[h]", None, None),
        ("t-Step[h]", "step_time_s", 3600.0),
        ("U[V]", "voltage_v", 1.0),
        ("I[mA]", "current_a", 1e-3),
        ("Ah-Step", "capacity", None),
        ("Capacitance_Chg(mAh)", "charge_capacity_ah", 1e-3),
        ("工步时间(h:min:s.ms)", "step_time_s", 1.0),
        ("电流(mA)", "current_a", 1e-3),
        ("Temperature[℃]", "temperature_c", 1.0),
        ("Cycle Count / 1", "cycle_index", None),
        ("cycle_dimensionless", "cycle_index", None),
        ("record_dimensionless", "record_index", None),
        ("test_time_millisecond", "test_time_s", 1e-3),
        ("capacity_mA_h", "capacity", 1e-3),
        ("Amp-hr", "capacity", None),
        ("mAmp-hr", "capacity", 1e-3),
        ("mV", "voltage_v", 1e-3),
        ("V", None, None),
        ("Step (Sec)", "step_time_s", 1.0),
        ("Step (#)", "step_index", None),
        ("Md", "state", None),
        ("Step Type", "state", None),
        ("Time", "clock_of_day", None),
        ("Notes [x]", None, None),
        ("__", None, None),
    ],
)  # fmt: skip
def test_what_a_tables_column_means(name, field, scale):
    found = meaning(name)
    assert (found and found.field) == field
    if found is not None:
        assert found.unknown is None
        assert (found.unit and found.unit.scale) == scale


def test_of_two_names_the_first_one_of_the_list_is_the_better():
    ranks = [meaning(name).rank for name in ("voltage_v", "Voltage(V)", "Ewe/V", "V [V]")]
    assert ranks == sorted(ranks) and len(set(ranks)) == 4


@pytest.mark.parametrize(
    ("field", "label"),
    [
        (field, label)
        for field, labels in bdf.LABELS.items()
        for label in labels
        if not READING.field(field).derived
    ],
    ids=lambda value: getattr(value, "text", value),
)
def test_every_spelling_of_the_battery_data_format_is_understood(field, label):
    found = meaning(label.text)
    assert found.unknown is None
    # The unit of a bare time is decided from its values.
    assert found.field in (field, "clock_of_day")
    assert (found.unit.scale if found.unit else 1.0) == pytest.approx(label.scale)
