"""Whose layout a table has is told from its names or from what stands above it."""

import pytest

from transforms.interpret.interpretation import Head
from transforms.interpret.layouts import name_of


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        (["mode", "Ns", "time/s", "Ewe/V", "I/mA"], "BioLogic"),
        (["freq/Hz", "Re(Z)/Ohm", "cycle number"], "BioLogic"),
        (["Rec#", "Cyc#", "Step", "TestTime", "Amps", "Volts"], "Maccor"),
        (["Rec", "DPT Time", "Current"], "Maccor"),
        (["DataPoint", "Step Type", "Time", "Voltage(V)"], "Neware"),
        (["工步类型", "电压(V)"], "Neware"),
        (["Data_Point", "Test_Time(s)", "Date_Time", "Step_Index", "Charge_Capacity(Ah)"], "Arbin"),
        (["Voltage_measured", "Current_measured", "Time"], "NASA PCoE"),
        (["Time [s]", "Discharge capacity [A.h]", "Voltage [V]"], "PyBaMM"),
        (["Test Time / s", "Voltage / V", "Current / A"], "Battery Data Format"),
        (["Test Time / h", "Voltage / V"], "Battery Data Format"),
        (["test_time_second", "voltage_volt", "current_ampere"], "Battery Data Format"),
        (["Voltage / V", "Time"], None),
        (["voltage", "current"], None),
        ([], None),
    ],
)
def test_names_that_give_a_layout_away(names, layout):
    assert name_of(names, Head()) == layout


def test_the_head_knows_better():
    assert name_of(["Rec#", "Cyc#"], Head(dialect="Basytec")) == "Basytec"
