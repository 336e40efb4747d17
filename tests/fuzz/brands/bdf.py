"""The Battery Data Format: machine names or labels, old and new, as CSV or Parquet."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from tests.fuzz.brands.common import single, truth
from tests.fuzz.draw import Draw
from tests.fuzz.log import draw_log
from tests.fuzz.truth import Export
from tests.fuzz.writing import Damage, Written

LABELS = {
    "test_time_second": "Test Time / s", "voltage_volt": "Voltage / V",
    "current_ampere": "Current / A", "unix_time_second": "Unix Time / s",
    "cycle_count": "Cycle Count / 1", "step_count": "Step Count / 1",
    "step_index": "Step Index / 1", "step_record_index": "Step Record Index / 1",
    "step_type": "Step Type", "charging_capacity_ah": "Charging Capacity / Ah",
    "discharging_capacity_ah": "Discharging Capacity / Ah", "net_capacity_ah": "Net Capacity / Ah",
    "surface_temperature_celsius": "Surface Temperature / degC",
}  # fmt: skip


def export(draw: Draw, name: str) -> Export:
    """A file of the format, of one of its versions, or with one of its known mistakes."""
    log = draw_log(draw)
    version = draw.choose("version", ("1.3", "1.2", "old_milliseconds", "milliseconds_as_seconds"))
    form = draw.choose("container", ("csv", "csv", "parquet"))
    names = draw.choose("names", ("machine", "labels"))
    unix = draw.chance("unix_time", 0.7) or version == "milliseconds_as_seconds"
    counter = draw.choose("counters", ("pair", "net", "none"))
    has_type = draw.chance("step_type", 0.4)
    inverted = draw.chance("positive_discharges", 0.15) and (has_type or counter == "pair")
    began = log.start.timestamp()
    columns: dict[str, np.ndarray] = {}  # type: ignore[type-arg]
    if version == "old_milliseconds":
        columns["test_time_millisecond"] = np.rint(log.at_s * 1e3).astype(np.int64)
    else:
        factor = 1e3 if version == "milliseconds_as_seconds" else 1.0
        columns["test_time_second"] = np.round(log.at_s * factor, 3)
    columns["voltage_volt"] = np.round(log.voltage_v, 5)
    columns["current_ampere"] = -log.current_a if inverted else log.current_a
    if version == "old_milliseconds":
        columns["cycle_dimensionless"] = log.cycle - 1
        if unix:
            columns["date_time_millisecond"] = np.rint((began + log.at_s) * 1e3).astype(np.int64)
    else:
        if unix:
            columns["unix_time_second"] = np.round(began + log.at_s, 3)
        columns["cycle_count"] = log.cycle
        columns["step_count"] = log.step
        within = np.arange(len(log)) - np.searchsorted(log.step, log.step) + 1
        columns["step_index" if version == "1.2" else "step_record_index"] = within
    if has_type:
        words = {"charge": "charge", "hold": "charge", "discharge": "discharge", "rest": "rest"}
        columns["step_type"] = np.array([words[str(kind)] for kind in log.kind])
    if counter == "pair":
        columns["charging_capacity_ah"] = np.round(log.charge_ah, 10)
        columns["discharging_capacity_ah"] = np.round(log.discharge_ah, 10)
    elif counter == "net":
        columns["net_capacity_ah"] = np.round(log.charge_ah - log.discharge_ah, 10)
    if draw.chance("temperature_nan", 0.3):
        temperature = log.temperature_c.copy()
        temperature[:: draw.whole(1, 3)] = np.nan
        columns["surface_temperature_celsius"] = temperature
    table = pa.table(
        {
            (LABELS.get(column, column) if names == "labels" else column): pa.array(values)
            for column, values in columns.items()
        }
    )
    out = io.BytesIO()
    if form == "parquet":
        pq.write_table(table, out)
    else:
        pyarrow.csv.write_csv(table, out, pyarrow.csv.WriteOptions(quoting_style="none"))
    file = f"{name}.bdf.{form}"
    content = Written(out.getvalue(), Damage(), len(log))
    right = truth(
        log,
        [content],
        cells=(name,),
        files=[f"{name}/{file}"],
        counter=counter != "none",
        clocks=[log.at_s],
        resolution_s=0.001 if unix else None,
    )
    return single(draw, "bdf", name, file, content, right)
