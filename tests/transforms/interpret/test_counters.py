"""What counters count, where they restart and in what unit is told by the integral of the current."""

from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transforms.interpret import cell
from transforms.interpret import counters
from transforms.interpret.apply import fields
from transforms.interpret.counters import growth, split
from transforms.interpret.decide import decide, without_counters
from transforms.interpret.interpretation import Kept

UTC = ZoneInfo("UTC")
LOG = cell.run()
NAN = np.nan
FIRST = np.array([True, *[False] * 7])


def told(log=LOG, **columns):
    table = pa.table({"Test_Time(s)": log.elapsed_s, "Cycle_Index": log.cycle,
                      "Step_Index": log.step, "Current(A)": log.current_a,
                      "Voltage(V)": log.voltage_v, **columns})  # fmt: skip
    how = decide(table)
    return how, fields(table, how, UTC)


def check_charge(found, log=LOG, rtol=2e-3):
    for name, running in (("charge_capacity_ah", log.into_ah),
                          ("discharge_capacity_ah", log.out_ah)):  # fmt: skip
        got = cell.counted(found, name, log.cycle)
        np.testing.assert_allclose(got, log.per_cycle(running), rtol=rtol)


def energy(log=LOG):
    """Running energies by the trapezoid of the power, rectangle where a step begins."""
    power = log.current_a * log.voltage_v
    mean = power.copy()
    same = np.sign(power[1:]) == np.sign(power[:-1])
    mean[1:] = np.where(same, (power[1:] + power[:-1]) / 2, power[1:])
    moved = mean * np.diff(log.elapsed_s, prepend=0.0) / 3600
    return np.cumsum(np.maximum(moved, 0)), np.cumsum(np.maximum(-moved, 0))


# --- growth --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "gained"),
    [
        ([0, 1, 2, 3, 3, 4, 5, 6], 6),
        ([5, 6, 7, 8, 8, 8, 8, 9], 4),  # what was there before is not gained
        ([0, 1, 2, 0, 1, 2, 0, 1], 5),  # restarts at zero
        ([0, 1, 2, 0.5, 1, 2, 0.5, 1], 5),  # and above it
        ([0, 1, NAN, 2, NAN, NAN, 3, 4], 4),
        ([NAN, 1, 2, 3, 3, 3, 3, 3], 3),
        ([NAN] * 8, 0),
    ],
)
def test_what_a_counter_gains(values, gained):
    got, lost = growth(np.array(values, dtype=float), FIRST)
    assert got.sum() == pytest.approx(gained) and lost.sum() == 0


def test_a_dip_is_made_up_for_where_a_counter_only_rises():
    dips = np.array([0, 1, 2, 1.9, 2, 3, 2.9, 4.0])
    assert growth(dips, FIRST, only_up=True)[0].sum() == pytest.approx(4.0)
    assert growth(dips, FIRST)[0].sum() == pytest.approx(4.2)


def test_a_net_counter_that_falls_with_the_current_has_not_restarted():
    values = np.array([0, 1, 2, 3, 2, 1, 0.2, 0.0])
    expected = np.array([0, 1, 1, 1, -1, -1, -0.8, -0.2])
    gained, lost = growth(values, FIRST, expected)
    assert (gained.sum(), lost.sum()) == (3.0, 3.0)


def test_a_net_counter_that_starts_again_goes_on_from_there():
    values = np.array([0, 1, 2, 3, -1, -2, -3, -3.0])
    expected = np.array([0, 1, 1, 1, -1, -1, -1, 0])
    gained, lost = growth(values, FIRST, expected)
    assert (gained.sum(), lost.sum()) == (3.0, 3.0)


def test_equipments_never_share_a_counter():
    first = np.array([True, False, False, False, True, False, False, False])
    gained, _ = growth(np.array([0, 1, 2, 3, 100, 101, 102, 103.0]), first)
    assert gained.sum() == 6.0
    gained, _ = growth(np.array([0, 1, 2, 3, NAN, NAN, 102, 103.0]), first)
    assert gained[:4].sum() == 3.0


# --- split ---------------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(st.sampled_from([1, -1, 0]), st.floats(0.01, 2.0), st.integers(3, 12)),
    min_size=1, max_size=12,
)  # fmt: skip


def moments(given_steps):
    """Direction and charge moved per row, and where steps begin."""
    way = np.concatenate([np.full(n, float(w)) for w, _, n in given_steps])
    moved = np.concatenate([np.full(n, q / n if w else 0.0) for w, q, n in given_steps])
    turns = np.concatenate([[True, *[False] * (n - 1)] for _, _, n in given_steps])
    return way, moved, turns


@given(given_steps=steps, restarts=st.booleans(), noise=st.floats(-0.05, 0.05))
def test_one_counter_for_both_directions_becomes_two(given_steps, restarts, noise):
    """Whether it restarts with steps or not, and though the integral is some percent off.

    Whether a counter restarts that has counted no more than that error is left open.
    """
    way, moved, turns = moments(given_steps)
    into, out = np.cumsum(moved * (way > 0)), np.cumsum(moved * (way < 0))
    total = into + out
    number = np.cumsum(turns) - 1
    before = np.append(0.0, total[np.flatnonzero(turns)[1:] - 1])
    first = np.arange(len(way)) == 0
    shown = moved * (1 + noise)
    open_by = 1e-9 + 2 * abs(noise) * float(moved.max()) * len(given_steps)
    for values, kept in (
        (total - before[number] if restarts else total, Kept.UNSIGNED),
        (into - out, Kept.NET_CHARGE),
        (out - into, Kept.NET_DISCHARGE),
    ):
        got = split(values, kept, way, first, shown, np.where(first, shown, 0.0), turns)
        np.testing.assert_allclose(got[0], into, rtol=1e-6, atol=open_by)
        np.testing.assert_allclose(got[1], out, rtol=1e-6, atol=open_by)


def test_a_counter_that_had_counted_before_its_first_row_begins_at_zero():
    way, moved = np.ones(4), np.full(4, 0.1)
    first = np.array([True, False, False, False])
    values = np.array([7.0, 7.1, 7.2, 7.3])
    into, out = split(values, Kept.UNSIGNED, way, first, moved, 0.1 * first, first)
    np.testing.assert_allclose(into, [0, 0.1, 0.2, 0.3])
    assert not out.any()


def test_the_counters_of_two_equipments_are_split_apart():
    first = np.array([True, False, False, True, False, False])
    way = np.array([1.0, 1, 1, -1, -1, -1])
    values = np.array([0.1, 0.2, 0.3, 0.5, 1.0, 1.5])
    moved = np.abs(np.array([0.1, 0.1, 0.1, 0.5, 0.5, 0.5]))
    into, out = split(values, Kept.UNSIGNED, way, first, moved, np.where(first, moved, 0), first)
    np.testing.assert_allclose(into, [0.1, 0.2, 0.3, 0, 0, 0])
    np.testing.assert_allclose(out, [0, 0, 0, 0.5, 1.0, 1.5])


# --- what is decided -----------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["mAh", "Ah", "As", "uAh"])
def test_the_integral_shows_the_unit_of_counters_that_name_none(unit):
    factor = {"Ah": 1.0, "mAh": 1e3, "As": 3600.0, "uAh": 1e6}[unit]
    how, found = told(Charge_Capacity=LOG.into_ah * factor, Discharge_Capacity=LOG.out_ah * factor)  # fmt: skip
    check_charge(found)
    assert how.use_of("charge_capacity_ah").unit == ("" if unit == "Ah" else unit)


@pytest.mark.parametrize("unit", ["mAh", "Ah", "As"])
@pytest.mark.parametrize("name", ["Capacity", "容量", "Ah-Step"])
def test_and_of_a_counter_for_both_directions(name, unit):
    factor = {"Ah": 1.0, "mAh": 1e3, "As": 3600.0}[unit]
    _, found = told(**{name: LOG.restarting(LOG.into_ah + LOG.out_ah, "step") * factor})
    check_charge(found)


@pytest.mark.parametrize("name", ["Discharge capacity [A.h]", "Charge_Capacity(Ah)"])
@pytest.mark.parametrize("first", [True, False])
def test_a_lone_counter_that_falls_counts_the_net(name, first):
    log = cell.run(discharge_first=first)
    net = log.into_ah - log.out_ah
    how, found = told(log, **{name: -net if name.startswith("Dis") else net})
    check_charge(found, log)
    assert how.use_of("capacity").kept is (
        Kept.NET_DISCHARGE if name.startswith("Dis") else Kept.NET_CHARGE
    )


@pytest.mark.parametrize("unit", [1.0, 1e3])
@pytest.mark.parametrize(("name", "running"), [("Discharge_Capacity", LOG.out_ah),
                                               ("Charge_Capacity", LOG.into_ah)])  # fmt: skip
def test_a_lone_counter_that_never_falls_counts_its_side(name, running, unit):
    how, found = told(**{name: running * unit})
    field = f"{name.lower()}_ah"
    np.testing.assert_allclose(
        cell.counted(found, field, LOG.cycle), LOG.per_cycle(running), rtol=1e-9
    )
    assert len([use for use in how.uses if use.kept]) == 1


@pytest.mark.parametrize("shape", ["pair", "net", "unsigned"])
@pytest.mark.parametrize(("unit", "factor"), [("Wh", 1.0), ("mWh", 1e3), ("J", 3600.0)])
@pytest.mark.parametrize("named", [True, False])
def test_energies_are_counted_like_charges(shape, unit, factor, named):
    into, out = energy()
    said = f"({unit})" if named else ""
    columns = {
        "pair": {f"Charge_Energy{said}": into * factor, f"Discharge_Energy{said}": out * factor},
        "net": {f"Energy{said}": (into - out) * factor},
        "unsigned": {f"Energy{said}": LOG.restarting(into + out, "step") * factor},
    }[shape]
    _, found = told(**columns)
    for name, running in (("charge_energy_wh", into), ("discharge_energy_wh", out)):
        got = cell.counted(found, name, LOG.cycle)
        np.testing.assert_allclose(got, LOG.per_cycle(running), rtol=5e-3)


def test_a_counter_that_does_not_agree_is_left_and_named():
    how, found = told(**{"Capacity(Ah)": 3.0 * LOG.restarting(LOG.into_ah + LOG.out_ah, "step")})
    assert "charge_disagrees" in how.disagreements
    assert "charge_capacity_ah" not in found.found and "Capacity(Ah)" in how.left
    assert without_counters(how)


def test_a_capacity_without_unit_that_is_something_else_is_left_without_a_word():
    how, _ = told(Capacity=np.linspace(80.0, 100.0, LOG.rows))
    assert "Capacity" in how.left and "charge_disagrees" not in how.disagreements


def test_columns_that_count_nothing_stand_back_for_one_that_does():
    how, found = told(**{"Charge_Capacity(Ah)": np.zeros(LOG.rows), "Q_charge(Ah)": LOG.into_ah,
                         "Discharge_Capacity(Ah)": LOG.out_ah,
                         "Capacity(Ah)": LOG.into_ah})  # fmt: skip
    assert how.use_of("charge_capacity_ah").column == "Q_charge(Ah)"
    assert {"Charge_Capacity(Ah)", "Capacity(Ah)"} <= set(how.left)
    check_charge(found)


def test_without_any_clock_counters_are_what_their_names_say():
    table = pa.table({"Current(A)": LOG.current_a, "Voltage(V)": LOG.voltage_v,
                      "Charge_Capacity(Ah)": LOG.into_ah, "Discharge_Capacity(Ah)": LOG.out_ah,
                      "Capacity(Ah)": LOG.into_ah})  # fmt: skip
    how = decide(table)
    assert how.use_of("charge_capacity_ah").kept is Kept.CHARGE
    assert not [w for w in how.witnesses if w.about in ("charge", "discharge")]


def test_a_counter_that_restarts_without_cycles_restarts_with_steps():
    table = pa.table({"Test_Time(s)": LOG.elapsed_s, "Current(A)": LOG.current_a,
                      "Voltage(V)": LOG.voltage_v,
                      "Charge_Capacity(Ah)": LOG.restarting(LOG.into_ah, "step"),
                      "Discharge_Capacity(Ah)": LOG.restarting(LOG.out_ah, "step")})  # fmt: skip
    assert decide(table).counter_grain == "step"


def test_missing_values_of_a_counter_stay_missing():
    values = LOG.restarting(LOG.into_ah + LOG.out_ah, "step")
    values[[3, 50, 51]] = NAN
    _, found = told(**{"Capacity(Ah)": pa.array(values, from_pandas=True)})
    for name in ("charge_capacity_ah", "discharge_capacity_ah"):
        assert np.flatnonzero(np.isnan(cell.numbers(found, name))).tolist() == [3, 50, 51]
    check_charge(found)


def test_flow_without_a_clock_is_nothing():
    from transforms.interpret.timeline import Clocks

    clocks = Clocks(perm=np.arange(3), first=np.array([True, False, False]))
    flowed = counters.flow(np.ones(3), clocks)
    assert not flowed.known and flowed.into.tolist() == [0, 0, 0]


def test_a_counter_that_starts_again_after_a_step_of_next_to_nothing():
    """A short step before a large one: the small total of the first is not taken from the second."""
    current = np.array([0.02] * 3 + [2.0] * 60 + [-0.02] * 3 + [-2.0] * 60)
    step = np.repeat([1, 2, 3, 4], [3, 60, 3, 60])
    amount = np.abs(current) * 30 / 3600
    running = np.cumsum(amount)
    begins = np.flatnonzero(np.diff(step, prepend=0))
    before = np.repeat(np.append(0.0, running[begins[1:] - 1]), [3, 60, 3, 60])
    table = pa.table({"Test_Time(s)": 30.0 * np.arange(1, 127), "Step": step,
                      "Current(A)": current, "Capacity(Ah)": running - before,
                      "Voltage(V)": 3.6 + np.cumsum(np.sign(current) * amount) / 3})  # fmt: skip
    found = fields(table, decide(table), UTC)
    for name, way in (("charge_capacity_ah", 1), ("discharge_capacity_ah", -1)):
        wanted = np.cumsum(np.where(np.sign(current) == way, amount, 0.0))
        np.testing.assert_allclose(cell.numbers(found, name), wanted, atol=1e-12)
