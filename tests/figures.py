"""python -m tests.figures: draws the pictures of dbt_project/figures from the models' own figures.

Cells of known truth (tests/protocols.py and the simulator) go through the job and the models; what
is drawn comes from the models' tables. Takes about two minutes; the same code gives the same pictures.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from pipeline import models
from tests.protocols import CUTOFF, LOWER, UPPER, Cell, layered_oxide
from tests.running import Ran, run

FOLDER = Path(models.PROJECT) / "figures"
DARK, BLUE, RED, GREEN, GREY, LIGHT = (
    "#222222",
    "#1f6fb4",
    "#c0392b",
    "#2b8a3e",
    "#999999",
    "#dddddd",
)
SIMULATED = (
    "simulator:?equipment=1&machines=0&protocol=check_up&chemistry=nmc&cycles=400&interval=300"
    "&fade=4&knee=300&cold_week=12&seed=3"
)
LIVED = "sim_nmc_001"
PROFILE = f"""
name = "figures"
equipment = ["fig_*"]
chemistry = "NMC"
nominal_capacity_ah = 2.0
rated_current_a = 2.0
v_min_v = {LOWER}
v_max_v = {UPPER}
cutoff_current_a = {CUTOFF}
"""


# The cells ---------------------------------------------------------------------------------------


def every_kind(cell: Cell) -> None:
    """A slow first cycle, then one after the other of what a cycle can be."""
    cell.charge(0.5)
    cell.discharge(0.5)
    for number in range(2, 8):
        cell.cycle = number
        if number == 3:
            cell.run(1, 1.0, until_v=3.95)
        else:
            cell.charge()
        if number == 4:
            cell.run(4, -2.0, move_ah=1.0)
            cell.run(5, 0.0, seconds=600.0)
        elif number == 6:
            pulses(cell)
        elif number == 7:
            drive(cell)
        else:
            cell.discharge()
        if number == 5:
            cell.charge()
            cell.discharge()


def pulses(cell: Cell) -> None:
    """A discharge in parts, with rests between them."""
    while cell.rows[-1][5] > LOWER:
        moved = cell.run(4, -2.0, seconds=600.0, until_v=LOWER, early=(1.0, 10.0, 30.0))
        ended = cell.rows[-1][5] <= LOWER or moved == 0.0
        cell.run(5, 0.0, seconds=900.0)
        if ended:
            break


def drive(cell: Cell) -> None:
    """A discharge by pulses, a part of which flows back."""
    while cell.rows[-1][5] > LOWER:
        for amps, seconds in ((-3.0, 120.0), (-0.5, 60.0), (2.0, 60.0)):
            cell.run(4, amps, seconds=seconds, until_v=LOWER if amps < 0 else None, every=30.0)
            if cell.rows[-1][5] <= LOWER:
                break
    cell.run(5, 0.0, seconds=600.0)


def wrong_counters(cell: Cell) -> None:
    """Cycles in two of which the cycler counts 5 % more discharge than flows."""
    for number in range(1, 9):
        cell.cycle = number
        cell.charge()
        first, before = len(cell.rows), cell.counters[1]
        cell.discharge()
        if number in (4, 5):
            for i in range(first, len(cell.rows)):
                row = list(cell.rows[i])
                row[7] = before + 1.05 * (row[7] - before)
                cell.rows[i] = tuple(row)
            cell.counters[1] = cell.rows[-1][7]


def write_cells(files: Path) -> None:
    """Writes the cycler files of the made cells below `files`."""

    def save(name: str, cell: Cell, daily: bool = False) -> None:
        cell.write(files / f"fig_{name}" / f"fig_{name}.csv", daily=daily)

    cell = Cell()
    every_kind(cell)
    save("kinds", cell)

    cell = Cell()
    for number in range(1, 6):
        cell.cycle = number
        cell.charge()
        cell.discharge(0.5 if number == 4 else 2.0)
    save("checked", cell)

    cell = Cell(share=0.7)
    cell.run(5, 0.0, seconds=600.0)
    cell.run(4, -2.0, seconds=900.0, early=(1, 4, 8, 12, 17, 24, 33, 45, 60, 80), every=20.0)
    cell.run(5, 0.0, seconds=600.0)
    save("step", cell)

    cell = Cell(every=20.0)
    for number in range(1, 3):
        cell.cycle = number
        cell.charge(0.2)
        cell.discharge(0.2)
    save("slow", cell)

    cell = Cell()
    for number in range(1, 3):
        cell.cycle = number
        cell.charge()
        cell.run(3, 0.0, seconds=3600.0, every=110.0)
        cell.run(4, -4.0, until_v=LOWER, every=1.0)
        cell.run(5, 0.0, seconds=5400.0, every=110.0)
    save("irregular", cell)

    cell = Cell()
    for number in range(1, 4):
        cell.cycle = number
        cell.charge(0.15)
        cell.discharge(0.15)
    save("daily", cell, daily=True)

    cell = Cell()
    wrong_counters(cell)
    save("counters", cell)


def make(folder: Path) -> Ran:
    """Runs job and models on all cells.

    Raises:
        RuntimeError: the job or the models failed.
    """
    write_cells(folder / "in")
    profile = folder / "figures.toml"
    profile.write_text(PROFILE, encoding="utf-8")
    for source in (folder / "in", SIMULATED):
        ran = run(folder, source, f"--equipment_profile={profile}")
        if ran.status != 0:
            raise RuntimeError(ran.err)
    success, counts = models.build(f"duckdb:{ran.warehouse}", data_tests=False)
    if not success:
        raise RuntimeError(f"models: {counts}")
    return ran


def columns(ran: Ran, query: str) -> list[Any]:
    """The columns of a query; numbers as floats, null as nan."""
    rows = ran.sql(query)
    if not rows:
        raise RuntimeError(f"no row: {query}")
    out: list[Any] = []
    for values in zip(*rows, strict=True):
        known = [value for value in values if value is not None]
        texts = any(isinstance(value, str | list) for value in known)
        out.append(list(values) if texts else np.array(values, dtype=float))
    return out


# The pictures ------------------------------------------------------------------------------------


def axes(height: float = 3.4, rows: int = 1, cols: int = 1, **share: Any) -> tuple[Figure, Any]:
    """A figure as wide as a page, and its axes."""
    figure = Figure(figsize=(8.0, height), layout="constrained")
    return figure, figure.subplots(rows, cols, **share)


def label(ax: Axes, x: str, y: str, title: str = "") -> None:
    """Names of the axes, with units."""
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    if title:
        ax.set_title(title, loc="left", fontsize=10)


KINDS = (
    ("fig_kinds", "full"),
    ("fig_kinds", "charge_partial"),
    ("fig_kinds", "discharge_partial"),
    ("fig_kinds", "several"),
    ("fig_kinds", "pulse"),
    ("fig_kinds", "drive"),
    ("fig_checked", "check_up"),
    ("fig_kinds", "formation"),
)


def draw_kinds(ran: Ran) -> Figure:
    """The net charge over time of a cycle of each kind."""
    figure, grid = axes(4.2, 2, 4, sharey=True)
    for ax, (cell, kind) in zip(grid.flat, KINDS, strict=True):
        ((cycle, valid),) = ran.sql(
            f"SELECT min(test_cycle), bool_and(is_valid) FROM battery_cycles "
            f"WHERE equipment_id = '{cell}' AND kind = '{kind}'"
        )
        seconds, level = columns(
            ran,
            f"SELECT test_time_s, level_ah FROM battery_features WHERE equipment_id = '{cell}' "
            f"AND test_cycle = {cycle} ORDER BY reading_seq",
        )
        top, bottom = columns(
            ran,
            "SELECT max(level_ah), 0.0 FROM battery_features "
            f"WHERE equipment_id = '{cell}' AND test_cycle IN (1, 2)",
        )
        for at in (float(top[0]), float(bottom[0])):
            ax.axhline(at, color=GREY, linewidth=0.8, linestyle="--")
        ax.plot((seconds - seconds[0]) / 3600.0, level, color=BLUE if valid else RED)
        ax.set_title(f"{kind}\n{'valid' if valid else 'not valid'}", fontsize=9)
        ax.set_ylim(-0.4, 2.3)
    grid.flat[1].text(2.2, 1.95, "upper limit", color=GREY, ha="right", va="top", fontsize=8)
    grid.flat[1].text(2.2, -0.05, "lower limit", color=GREY, ha="right", va="top", fontsize=8)
    for ax in grid[1]:
        ax.set_xlabel("time, h")
    for ax in grid[:, 0]:
        ax.set_ylabel("net charge, Ah")
    return figure


def draw_health(ran: Ran) -> Figure:
    """Which cycles are compared, their running median, and the end of life."""
    figure, ax = axes(3.8)
    cycle, ah, reference, median, why = columns(
        ran,
        "SELECT cycle_number, capacity_ah, is_reference::int, discharge_median_ah, "
        "coalesce(reference_reason, '') FROM battery_health "
        f"WHERE equipment_id = '{LIVED}' AND is_valid ORDER BY cycle_number",
    )
    ((end, nominal),) = ran.sql(
        "SELECT eol_80_nominal_cycle, nominal_capacity_ah FROM battery_lifetime "
        f"WHERE equipment_id = '{LIVED}'"
    )
    cold = np.array(["°C" in reason for reason in why])
    slow = np.array([" A; " in reason for reason in why])
    compared = reference == 1
    ax.plot(cycle[compared], ah[compared], ".", color=GREY, label="compared: 1C, near 25 °C")
    ax.plot(cycle[cold], ah[cold], "x", color=BLUE, markersize=4, label="not compared: too cold")
    ax.plot(
        cycle[slow], ah[slow], "^", color=GREEN, markersize=4, label="not compared: another rate"
    )
    ax.plot(cycle[compared], median[compared], color=DARK, linewidth=1.2, label="median of five")
    ax.axhline(0.8 * nominal, color=RED, linewidth=0.8, linestyle="--")
    ax.text(250, 0.8 * nominal - 0.005, "80 % of nominal", color=RED, ha="right", va="top",
            fontsize=9)  # fmt: skip
    ax.axvline(end, color=RED, linewidth=0.8)
    ax.text(end + 3, 2.03, f"end of life:\ncycle {end}", color=RED, va="top", fontsize=9)
    ax.legend(loc="lower left", fontsize=8, frameon=False)
    ax.set_xlim(0, 330)
    ax.set_ylim(1.45, 2.05)
    label(ax, "cycle number", "capacity, Ah")
    return figure


def draw_knee(ran: Ran) -> Figure:
    """Onset and point of the knee, with their intervals."""
    figure, ax = axes(3.6)
    cycle, ah = columns(
        ran,
        f"SELECT cycle_number, capacity_ah FROM battery_health WHERE equipment_id = '{LIVED}' "
        "AND is_reference ORDER BY cycle_number",
    )
    (values,) = ran.sql(
        "SELECT knee_onset_cycle, knee_onset_low_cycle, knee_onset_high_cycle, "
        "knee_onset_capacity_ah, knee_cycle, knee_low_cycle, knee_high_cycle, knee_capacity_ah, "
        "fade_before_ah_per_cycle, fade_between_ah_per_cycle, fade_after_ah_per_cycle "
        f"FROM battery_lifetime WHERE equipment_id = '{LIVED}'"
    )
    onset, onset_low, onset_high, onset_ah, point, low, high, point_ah, *fades = values
    ax.plot(cycle, ah, ".", color=GREY, markersize=3)
    first, last = float(cycle[0]), float(cycle[-1])
    line = [onset_ah + fades[0] * (onset - first), onset_ah, point_ah]
    ax.plot(
        [first, onset, point, last],
        [*line, point_ah - fades[2] * (last - point)],
        color=DARK,
        linewidth=1.2,
    )
    for at, a, b, name, color, ah_there in (
        (onset, onset_low, onset_high, "onset", BLUE, onset_ah),
        (point, low, high, "point", RED, point_ah),
    ):
        ax.axvspan(a, b, color=color, alpha=0.2, linewidth=0)
        ax.axvline(at, color=color, linewidth=1.0)
        ax.text(at - 4, ah_there - 0.12, f"{name}: {at}\n({a} to {b})", color=color, ha="right",
                va="top", fontsize=9)  # fmt: skip
    ax.set_xlim(0, 370)
    ax.set_ylim(0.9, 2.05)
    label(ax, "cycle number", "capacity, Ah")
    return figure


def draw_resistance(ran: Ran) -> Figure:
    """The voltage after a step of the current as resistance, and the figures at 10 and 30 s."""
    figure, ax = axes(3.6)
    (step,) = ran.sql(
        "SELECT step_run, voltage_before_v, current_before_a, dc_resistance_10s_ohm, "
        "dc_resistance_30s_ohm, dc_resistance_10s_error_ohm, dc_resistance_30s_error_ohm, "
        "dc_resistance_10s_ocv_ohm, dc_resistance_30s_ocv_ohm "
        "FROM battery_resistance WHERE equipment_id = 'fig_step' AND direction = 'discharge'"
    )
    run_number, before_v, before_a, at10, at30, error10, error30, ocv10, ocv30 = step
    seconds, volts, amps = columns(
        ran,
        "SELECT step_time_s, voltage_v, current_a FROM battery_features "
        f"WHERE equipment_id = 'fig_step' AND step_run = {run_number} AND step_time_s <= 62 "
        "ORDER BY reading_seq",
    )
    ohm = 1000.0 * (volts - before_v) / (amps - before_a)
    cell = Cell()
    time = np.linspace(0.0, 62.0, 500)
    own = 1000.0 * (cell.ohm + cell.rc_ohm * (1.0 - np.exp(-time / cell.rc_s)))
    ax.plot(time, own, color=GREY, linewidth=1.0, label="the cell's own resistance (truth)")
    ax.plot(seconds, ohm, "o", color=DARK, markersize=4, label="readings, as resistance")
    ax.errorbar([10, 30], [1000 * at10, 1000 * at30], [1000 * error10, 1000 * error30], color=RED,
                fmt="D", markersize=6, capsize=4, label="at 10 and 30 s, with error")  # fmt: skip
    ax.plot([10, 30], [1000 * ocv10, 1000 * ocv30], "D", color=BLUE, markerfacecolor="white",
            label="without the fall of the open-circuit voltage")  # fmt: skip
    ax.legend(loc="lower right", fontsize=8, frameon=False)
    label(ax, "time after the current changed, s", "resistance, mΩ")
    return figure


def draw_ica(ran: Ran) -> Figure:
    """dQ/dV of a slow charge and discharge, with its peaks, beside the truth."""
    figure, ax = axes(3.8)
    cell = Cell()
    share = np.linspace(0.005, 0.999, 2000)
    truth = cell.capacity_ah / np.gradient(layered_oxide(share), share)
    drop = 0.2 * (cell.ohm + cell.rc_ohm)
    for direction, color, sign in (("charge", BLUE, 1.0), ("discharge", RED, -1.0)):
        key = (
            "WHERE equipment_id = 'fig_slow' AND cycle_number = 2 "
            f"AND direction = '{direction}' ORDER BY voltage_v"
        )
        volts, height = columns(ran, f"SELECT voltage_v, dq_dv_ah_per_v FROM battery_ica {key}")
        at, peak, error = columns(
            ran,
            f"SELECT voltage_v, dq_dv_ah_per_v, dq_dv_error_ah_per_v FROM battery_ica_peaks {key}",
        )
        ax.plot(layered_oxide(share) + sign * drop, sign * truth, color=GREY, linewidth=0.8,
                label="truth" if sign > 0 else None)  # fmt: skip
        ax.plot(volts, sign * height, color=color, linewidth=1.4, label=direction)
        ax.errorbar(at, sign * peak, error, color=color, fmt="o", markersize=5, capsize=3)
        for x, y in zip(at, peak, strict=True):
            ax.annotate(f"{x:.3f} V", (x, sign * y), (0, sign * 9), textcoords="offset points",
                        ha="center", va="center", fontsize=8, color=color)  # fmt: skip
    ax.axhline(0.0, color=DARK, linewidth=0.6)
    ax.set_ylim(-4.5, 4.5)
    ax.set_xlim(3.1, 4.25)
    ax.set_yticks([-4, -2, 0, 2, 4], ["4", "2", "0", "2", "4"])
    ax.legend(loc="upper left", fontsize=8, frameon=False)
    label(ax, "voltage, V", "dQ/dV, Ah/V (discharge downwards)")
    return figure


def draw_mean(ran: Ran) -> Figure:
    """A temperature logged every second in the discharge and seldom else, and its two means."""
    figure, ax = axes(3.2)
    seconds, heat = columns(
        ran,
        "SELECT test_time_s, temperature_c FROM battery_features "
        "WHERE equipment_id = 'fig_irregular' AND test_cycle = 2 ORDER BY reading_seq",
    )
    ((mean,),) = ran.sql(
        "SELECT temperature_mean_c FROM battery_cycles "
        "WHERE equipment_id = 'fig_irregular' AND cycle_number = 2"
    )
    hours = (seconds - seconds[0]) / 3600.0
    ax.plot(hours, heat, ".", color=GREY, markersize=4)
    for value, name, color in (
        (float(heat.mean()), "every reading alike", RED),
        (mean, "weighted by time", BLUE),
    ):
        ax.axhline(value, color=color, linewidth=1.2)
        ax.text(5.4, value + 0.3, f"{name}: {value:.1f} °C", color=color, ha="right", fontsize=9)
    label(ax, "time in the cycle, h", "temperature, °C")
    return figure


def draw_joined(ran: Ran) -> Figure:
    """A test in daily files, and the cycles that the models make of it."""
    figure, ax = axes(3.2)
    hours, volts, day = columns(
        ran,
        "SELECT test_time_s / 3600, voltage_v, dense_rank() OVER (ORDER BY source_file) "
        "FROM battery_features WHERE equipment_id = 'fig_daily' ORDER BY reading_seq",
    )
    for number in np.unique(day):
        ax.plot(hours[day == number], volts[day == number], linewidth=1.5,
                color=BLUE if number % 2 else GREEN)  # fmt: skip
        ax.text(hours[day == number][0] + 5, 2.62, f"file {number:.0f}", ha="center", fontsize=8,
                color=BLUE if number % 2 else GREEN)  # fmt: skip
    begin, end, cycle = columns(
        ran,
        "SELECT min(test_time_s) / 3600, max(test_time_s) / 3600, test_cycle FROM battery_features "
        "WHERE equipment_id = 'fig_daily' GROUP BY test_cycle ORDER BY test_cycle",
    )
    for a, b, number in zip(begin, end, cycle, strict=True):
        ax.axvline(a, color=GREY, linewidth=0.8)
        ax.text((a + b) / 2, 4.3, f"cycle {number:.0f}", ha="center", fontsize=9)
    ax.set_ylim(2.5, 4.45)
    label(ax, "test time, h", "voltage, V")
    return figure


def draw_witnesses(ran: Ran) -> Figure:
    """The counter against the integral of the current, cycle by cycle."""
    figure, ax = axes(3.2)
    cycle, agreement, doubtful = columns(
        ran,
        "SELECT cycle_number, discharge_agreement, list_contains(disagreements, 'charge_disagrees')"
        "::int FROM battery_cycles WHERE equipment_id = 'fig_counters' ORDER BY cycle_number",
    )
    difference = 100.0 * (agreement - 1.0)
    ax.axhspan(-2.0, 2.0, color=LIGHT, alpha=0.5, linewidth=0)
    ax.text(8.4, 1.9, "may differ by 2 %", fontsize=9, ha="right", va="top")
    for chosen, color, name in ((doubtful == 0, BLUE, "valid"), (doubtful == 1, RED,
                                "charge_disagrees: not valid")):  # fmt: skip
        ax.plot(cycle[chosen], difference[chosen], "o", color=color, label=name)
    ax.legend(loc="upper left", fontsize=9, frameon=False)
    ax.set_xlim(0.5, 8.5)
    ax.set_ylim(-3.0, 7.0)
    label(ax, "cycle number", "counter against integral, %")
    return figure


PICTURES: dict[str, Callable[[Ran], Figure]] = {
    "kinds": draw_kinds,
    "health": draw_health,
    "knee": draw_knee,
    "resistance": draw_resistance,
    "dqdv": draw_ica,
    "means": draw_mean,
    "joined": draw_joined,
    "witnesses": draw_witnesses,
}


def save(figure: Figure, path: Path) -> None:
    """Writes a small PNG that holds neither the time nor the version of what drew it."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110, metadata={"Software": None})
    Image.open(drawn).convert("RGB").quantize(48, dither=Image.Dither.NONE).save(
        path, optimize=True
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws all pictures."""
    parser = argparse.ArgumentParser(prog="python -m tests.figures", description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder (dbt_project/figures)")
    parser.add_argument("--work", type=Path, help="folder to keep the warehouse in")
    args = parser.parse_args(arguments)
    mpl.rcParams |= {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.work or Path(temporary)
        ran = Ran(0, "", "", folder / "lake", folder / "warehouse.duckdb")
        if not ran.warehouse.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            ran = make(folder)
        for name, draw in PICTURES.items():
            save(draw(ran), args.out / f"{name}.png")


if __name__ == "__main__":
    main()
