import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.forms import arrow_schema
from schemas.reading import WINDOW_STATS
from tests.messages import SECOND, START_US, limits
from tests.transforms.test_sequence import SCENES, cell, table_of
from transforms.enrich import enrich
from transforms.sequence import sequence
from transforms.summarise import summarise

MINUTE_US = 60 * SECOND
AMOUNTS = ("charge_ah", "discharge_ah", "charge_wh", "discharge_wh")


def ordered(readings):
    return sequence(table_of(readings), None, limits()).table


def reference(table, window_us):
    """The same by pandas, as rows by (equipment, window)."""
    frame = table.to_pandas()
    frame["equipment_id"] = frame["equipment_id"].astype(str)  # sorted by name, not by code
    if "temperature_c" not in frame:
        frame["temperature_c"] = np.nan
    micros = table.column("recorded_at").cast(pa.int64()).to_numpy()
    frame["window_start"] = micros // window_us * window_us
    frame["names"] = enrich(table).column("quality_flags").to_pylist()
    out = []
    for (equipment, start), part in frame.groupby(["equipment_id", "window_start"]):
        row = {"equipment_id": equipment, "start": start, "readings": len(part)}
        for name, field in (("voltage", "voltage_v"), ("current", "current_a"),
                            ("temperature", "temperature_c")):  # fmt: skip
            unit = field[-2:]
            for how in ("min", "mean", "max"):
                row[f"{name}_{how}{unit}"] = getattr(part[field], how)()
        row |= {name: part[name].sum() for name in AMOUNTS}
        row["flagged_readings"] = sum(map(bool, part["names"]))
        row["quality_flags"] = sorted({flag for flags in part["names"] for flag in flags})
        out.append(row)
    return out


def check(found, table, window_us):
    assert found.schema.equals(arrow_schema(WINDOW_STATS), check_metadata=True)
    starts = found.column("window_start").cast(pa.int64()).to_pylist()
    ends = found.column("window_end").cast(pa.int64()).to_pylist()
    wanted = reference(table, window_us)
    assert found.num_rows == len(wanted)
    for row, start, end, want in zip(found.to_pylist(), starts, ends, wanted, strict=True):
        assert (start, end - start) == (want.pop("start"), window_us)
        for name, value in want.items():
            if isinstance(value, float) and np.isnan(value):
                assert row[name] is None, name
            else:
                assert row[name] == pytest.approx(value, abs=1e-12), name


@given(SCENES, st.sampled_from([1, SECOND, 7 * SECOND, MINUTE_US, 86_400 * SECOND]))
def test_any_readings_are_summed_up_as_by_pandas(readings, window_us):
    table = ordered(readings)
    check(summarise(table, window_us), table, window_us)


def test_means_leave_out_what_is_not_there():
    readings = [
        cell(0, temperature_c=20.0), cell(1, temperature_c=30.0), cell(2),
        cell(60), cell(61), cell(120, temperature_c=5.0),
    ]  # fmt: skip
    table = ordered(readings)
    found = summarise(table, MINUTE_US)
    check(found, table, MINUTE_US)
    assert found.column("temperature_mean_c").to_pylist() == [25.0, None, 5.0]
    assert found.column("temperature_max_c").to_pylist() == [30.0, None, 5.0]
    none = summarise(ordered([cell(0)]), MINUTE_US)
    assert none.column("temperature_min_c").to_pylist() == [None]


def test_windows_begin_at_multiples_from_1970_on():
    first = -START_US / 1e6
    table = ordered([cell(first), cell(first + 59), cell(first + 60)])
    found = summarise(table, MINUTE_US)
    assert found.column("window_start").cast(pa.int64()).to_pylist() == [0, MINUTE_US]
    assert found.column("readings").to_pylist() == [2, 1]


def test_tests_of_one_equipment_that_overlap_share_their_windows():
    table = ordered([cell(0), cell(61), cell(5, test_id="a"), cell(70, test_id="a")])
    found = summarise(table, MINUTE_US)
    check(found, table, MINUTE_US)
    assert found.column("readings").to_pylist() == [2, 2]


def test_flags_are_those_that_occurred():
    table = ordered([cell(0, voltage_v=9.0), cell(1), cell(200, current_a=5.0)])
    found = summarise(table, 3_600 * SECOND)
    assert found.column("flagged_readings").to_pylist() == [2]
    assert found.column("quality_flags").to_pylist() == [
        ["current_out_of_range", "gap", "voltage_out_of_range"]
    ]


class TestStatsId:
    def ids(self, *readings, window_us=MINUTE_US):
        return summarise(ordered(list(readings)), window_us).column("stats_id").to_pylist()

    def test_it_is_the_same_for_the_same_readings_in_any_order(self):
        first = [cell(0), cell(1, test_id="a"), cell(2)]
        assert self.ids(*first) == self.ids(*first[::-1])
        # The order of tests is that of their names, which the window does not know.
        renamed = [
            {**reading, "test_id": "z" if reading["test_id"] == "t" else "b"} for reading in first
        ]
        assert self.ids(*first) == self.ids(*renamed)

    def test_it_differs_by_equipment_window_and_readings(self):
        found = {
            self.ids(cell(0))[0], self.ids(cell(1))[0], self.ids(cell(0), cell(1))[0],
            self.ids(cell(0, equipment_id="CS2_36"))[0], self.ids(cell(0), window_us=2 * MINUTE_US)[0],
            *self.ids(cell(60), cell(120)), self.ids(cell(0, test_time_s=1.0))[0],
        }  # fmt: skip
        assert len(found) == 8
        assert all(len(bytes.fromhex(name)) == 16 for name in found)

    def test_it_differs_by_the_start_of_the_window_alone(self):
        assert self.ids(cell(55)) != self.ids(cell(55), window_us=50 * SECOND)

    def test_a_late_pane_stands_beside_the_first(self):
        both = self.ids(cell(0), cell(1))
        assert self.ids(cell(0)) != self.ids(cell(1)) != both


def test_the_reference_itself_sees_a_difference():
    table = ordered([cell(0), cell(1)])
    wrong = summarise(ordered([cell(0), cell(1, voltage_v=3.8)]), MINUTE_US)
    with pytest.raises(AssertionError):
        check(wrong, table, MINUTE_US)
    assert isinstance(table.to_pandas(), pd.DataFrame)
