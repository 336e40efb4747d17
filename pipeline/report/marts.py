"""Reads what the report shows from the dbt models of a DuckDB file or a MotherDuck database."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType
from typing import Any

import duckdb
import pandas as pd

from pipeline.errors import ConfigError
from pipeline.report.warehouse import opened
from pipeline.shown import address
from schemas.reading import QUALITY_FLAGS

# What a reading that counts may have; models leave out those of which another version does.
FLAGS = tuple(flag for flag in QUALITY_FLAGS if flag != "superseded")
QUANTITIES = ("voltage_{}_v", "temperature_{}_c", "frequency_{}_hz")

# Every model and column the queries below use: checked before the first query, so that a warehouse
# of another version is told in one sentence instead of by a database error.
COLUMNS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "dim_equipment": (
            "equipment_id",
            "equipment_type",
            "first_seen_at",
            "last_seen_at",
            "readings",
        ),
        "battery_lifetime": (
            "equipment_id",
            "nominal_capacity_ah",
            "nominal_capacity_source",
            "initial_capacity_ah",
            "cycles",
            "complete_cycles",
            "valid_cycles",
            "capacity_ah",
            "soh_nominal",
            "equivalent_full_cycles",
            "status",
            "eol_80_nominal_cycle",
            "eol_80_nominal_at",
            "knee_cycle",
            "knee_onset_cycle",
            "remaining_cycles",
            "remaining_cycles_low",
            "remaining_cycles_high",
            "predicted_remaining_cycles",
            "predicted_remaining_cycles_low",
            "predicted_remaining_cycles_high",
            "predicted_by",
        ),
        "battery_predictions": (
            "equipment_id",
            "model",
            "model_version",
            "cycle_number",
            "soh",
            "soh_low",
            "soh_high",
            "threshold_soh",
            "end_of_life_at",
            "end_of_life_low_at",
            "end_of_life_high_at",
            "knee_risk",
            "out_of_domain",
            "reasons",
            "is_outlived",
            "is_chosen",
        ),
        "battery_cycles": (
            "equipment_id",
            "cycle_number",
            "test_key",
            "is_complete",
            "is_valid",
            "invalid_reason",
            "kind",
            "kind_reason",
            "disagreements",
            "coulombic_efficiency",
            "energy_efficiency",
            "internal_resistance_ohm",
            "dc_resistance_30s_ohm",
        ),
        "dim_test": (
            "equipment_id",
            "test_key",
            "test_id",
            "source_file",
            "dialect",
            "disagreements",
        ),
        "battery_health": (
            "equipment_id",
            "cycle_number",
            "started_at",
            "is_complete",
            "is_valid",
            "discharge_ah",
            "discharge_median_ah",
            "soh_nominal",
            "equivalent_full_cycles",
        ),
        "battery_ica": ("stage_key", "point", "voltage_v", "dq_dv_ah_per_v"),
        "battery_ica_stages": (
            "stage_key",
            "equipment_id",
            "cycle_number",
            "direction",
            "charge_ah",
            "known_points",
        ),
        "equipment_daily": (
            "equipment_id",
            "equipment_type",
            "day",
            "flagged_readings",
            *(name.format(kind) for name in QUANTITIES for kind in ("min", "mean", "max")),
        ),
        "data_quality_daily": (
            "delivered_readings",
            "readings",
            "flagged_readings",
            *(f"{flag}_readings" for flag in FLAGS),
        ),
        "stg_dead_letters": ("equipment_id", "rule"),
    }
)

_CELLS = """
    select
        equipment.equipment_id, equipment.readings,
        life.nominal_capacity_ah, life.nominal_capacity_source, life.initial_capacity_ah,
        life.cycles, life.complete_cycles, life.capacity_ah, life.soh_nominal,
        life.equivalent_full_cycles, life.status, life.eol_80_nominal_cycle, life.knee_cycle,
        life.knee_onset_cycle,
        life.remaining_cycles, life.remaining_cycles_low, life.remaining_cycles_high,
        life.predicted_remaining_cycles, life.predicted_remaining_cycles_low,
        life.predicted_remaining_cycles_high, life.predicted_by,
        predicted.model as predicted_model,
        substr(predicted.model_version, 1, 12) as predicted_version,
        predicted.cycle_number as predicted_at_cycle, predicted.soh as predicted_soh,
        predicted.soh_low as predicted_soh_low, predicted.soh_high as predicted_soh_high,
        predicted.threshold_soh as predicted_threshold_soh,
        cast(cast(predicted.end_of_life_at at time zone 'UTC' as date) as varchar) as predicted_end_on,
        cast(cast(predicted.end_of_life_low_at at time zone 'UTC' as date) as varchar) as predicted_end_low_on,
        cast(cast(predicted.end_of_life_high_at at time zone 'UTC' as date) as varchar) as predicted_end_high_on,
        predicted.knee_risk as predicted_knee_risk,
        coalesce(predicted.out_of_domain, false) as predicted_out_of_domain,
        coalesce(array_to_string(predicted.reasons, '; '), '') as predicted_reasons,
        coalesce(predicted.is_outlived, false) as predicted_is_outlived,
        cast(cast(life.eol_80_nominal_at at time zone 'UTC' as date) as varchar) as eol_on,
        efficiency.coulombic, efficiency.energy,
        coalesce(days.flagged, 0) as flagged,
        coalesce(refused.rejected, 0) as rejected
    from dim_equipment as equipment
    left join battery_lifetime as life using (equipment_id)
    left join (select * from battery_predictions where is_chosen) as predicted using (equipment_id)
    left join (
        select
            equipment_id,
            median(coulombic_efficiency) as coulombic,
            median(energy_efficiency) as energy
        from battery_cycles where is_valid group by equipment_id
    ) as efficiency using (equipment_id)
    left join (
        select equipment_id, sum(flagged_readings) as flagged
        from equipment_daily group by equipment_id
    ) as days using (equipment_id)
    left join (
        select equipment_id, count(*) as rejected
        from stg_dead_letters group by equipment_id
    ) as refused using (equipment_id)
    where equipment.equipment_type = 'battery_cell'
    order by life.soh_nominal asc nulls last, equipment.equipment_id
"""
_HEALTH = """
    select
        equipment_id, cycle_number, discharge_median_ah, equivalent_full_cycles,
        100 * soh_nominal as soh,
        case when is_complete then discharge_ah end as discharge_ah,
        (epoch(started_at) - min(epoch(started_at)) over (partition by equipment_id)) / 86400
            as days
    from battery_health
    where equipment_id in (select unnest(?))
    order by equipment_id, cycle_number
"""
_CYCLES = """
    select
        equipment_id, cycle_number,
        1000 * internal_resistance_ohm as internal_mohm,
        1000 * dc_resistance_30s_ohm as dc_mohm,
        100 * coulombic_efficiency as coulombic,
        100 * energy_efficiency as energy
    from battery_cycles
    where is_valid and equipment_id in (select unnest(?))
    order by equipment_id, cycle_number
"""
# A line per cell, test and doubt; a doubt of the whole test is in no need of its cycles' numbers.
_DOUBTS = """
    with doubts as (
        select test_key, unnest(disagreements) as doubt, null as cycle_number, false as is_invalid
        from dim_test
        union all
        select test_key, unnest(disagreements) as doubt, cycle_number, not is_valid as is_invalid
        from battery_cycles
    )
    select
        tests.equipment_id, coalesce(tests.source_file, tests.test_id) as test, tests.dialect,
        doubts.doubt,
        count(doubts.cycle_number) as cycles,
        min(doubts.cycle_number) as first_cycle,
        max(doubts.cycle_number) as last_cycle,
        count(*) filter (doubts.is_invalid) as invalid_cycles
    from doubts
    inner join dim_test as tests using (test_key)
    group by all
    order by invalid_cycles desc, cycles desc, tests.equipment_id, test, doubts.doubt
"""
# A line per cell and kind; the commonest reason stands for its cycles.
_UNCOUNTED = """
    select
        equipment_id, kind,
        mode(
            case
                when kind in ('unknown', 'several', 'pulse') or not is_complete then kind_reason
                else invalid_reason
            end
        ) as reason,
        count(*) as cycles,
        max(life.valid_cycles) as valid_cycles
    from battery_cycles
    inner join battery_lifetime as life using (equipment_id)
    where not is_valid
    group by equipment_id, kind
    order by max(life.valid_cycles) > 0, cycles desc, equipment_id, kind
"""
# Of a charge in several stages, the one that moved most charge.
_CURVES = """
    select
        stages.stage_key, stages.equipment_id, stages.cycle_number,
        100 * health.soh_nominal as soh
    from battery_ica_stages as stages
    inner join battery_health as health using (equipment_id, cycle_number)
    where
        stages.direction = 'charge' and stages.known_points > 1 and health.is_valid
        and stages.equipment_id in (select unnest(?))
    qualify row_number() over (
        partition by stages.equipment_id, stages.cycle_number
        order by stages.charge_ah desc, stages.stage_key
    ) = 1
    order by stages.equipment_id, stages.cycle_number
"""
_CURVE_POINTS = """
    select stage_key, voltage_v, dq_dv_ah_per_v as dq_dv
    from battery_ica
    where stage_key in (select unnest(?)) and dq_dv_ah_per_v is not null
    order by stage_key, point
"""
# A fleet of more machines than `{limit}` is drawn as one: the lowest, the mean and the highest of all.
_MACHINE_DAYS = """
    with machines as (select * from equipment_daily where equipment_type = 'machine'),
    fleet as (select count(distinct equipment_id) as size from machines)
    select
        case when fleet.size > {limit} then 'all ' || fleet.size || ' machines'
            else machines.equipment_id end as machine,
        cast(machines.day as varchar) as day,
        {figures}
    from machines cross join fleet
    group by 1, 2 order by 1, 2
"""


@dataclass(frozen=True)
class Overview:
    """The figures of the fleet.

    Attributes:
        cells: one row per cell (see `_CELLS`), the lowest state of health first.
        machines, machine_readings: how many machines, and their readings.
        readings: readings of cells and machines.
        first_day, last_day: event time of the first and the last reading; None without readings.
        delivered: rows in the source table, duplicate deliveries included.
        kept: readings after deduplication.
        flagged: readings with at least one flag.
        flags: flagged readings by flag, those that occur, the most frequent first.
        rejects: dead letters by rule, the most frequent first.
        doubts: one row per cell, test and name of what its witnesses disagree on (see `_DOUBTS`).
        uncounted: one row per cell and kind of cycles that measure no capacity.
    """

    cells: pd.DataFrame
    machines: int
    machine_readings: int
    readings: int
    first_day: date | None
    last_day: date | None
    delivered: int
    kept: int
    flagged: int
    flags: Mapping[str, int]
    rejects: Mapping[str, int]
    doubts: pd.DataFrame
    uncounted: pd.DataFrame

    @property
    def is_empty(self) -> bool:
        """Whether no reading has arrived."""
        return self.readings == 0


class Marts:
    """The models of one warehouse."""

    def __init__(self, database: duckdb.DuckDBPyConnection) -> None:
        self._database = database

    @classmethod
    @contextlib.contextmanager
    def open(cls, warehouse: str) -> Iterator[Marts]:
        """The models of the warehouse that a duckdb: or md: URI names, open for reading.

        Raises:
            ConfigError: it is not there, can't be opened, or lacks models.
        """
        with opened(warehouse) as database:
            _check(database, warehouse)
            yield cls(database)

    def overview(self) -> Overview:
        """The figures of the fleet and the table of cells."""
        fleet = self._row(
            """
            select
                count(case when equipment_type = 'machine' then 1 end) as machines,
                coalesce(sum(case when equipment_type = 'machine' then readings end), 0)
                    as machine_readings,
                coalesce(sum(readings), 0) as readings,
                cast(min(first_seen_at) at time zone 'UTC' as date) as first_day,
                cast(max(last_seen_at) at time zone 'UTC' as date) as last_day
            from dim_equipment
            """
        )
        sums = {"delivered": "delivered_readings", "kept": "readings", "all": "flagged_readings"}
        sums |= {flag: f"{flag}_readings" for flag in FLAGS}
        columns = ", ".join(f'coalesce(sum({name}), 0) as "{key}"' for key, name in sums.items())
        quality = self._row(f"select {columns} from data_quality_daily")  # noqa: S608 - names of ours
        rejects = self._database.execute(
            """
            select coalesce(rule, '(none)') as rule, count(*) as letters
            from stg_dead_letters group by 1 order by letters desc, rule
            """
        ).fetchall()
        flags = {flag: int(quality[flag]) for flag in FLAGS if quality[flag]}
        return Overview(
            cells=self._database.execute(_CELLS).df(),
            machines=int(fleet["machines"]),
            machine_readings=int(fleet["machine_readings"]),
            readings=int(fleet["readings"]),
            first_day=fleet["first_day"],
            last_day=fleet["last_day"],
            delivered=int(quality["delivered"]),
            kept=int(quality["kept"]),
            flagged=int(quality["all"]),
            flags=dict(sorted(flags.items(), key=lambda item: (-item[1], item[0]))),
            rejects={str(rule): int(letters) for rule, letters in rejects},
            doubts=self._database.execute(_DOUBTS).df(),
            uncounted=self._database.execute(_UNCOUNTED).df(),
        )

    def health(self, cells: Sequence[str]) -> pd.DataFrame:
        """Capacity and state of health of these cells, a row per cycle."""
        return self._database.execute(_HEALTH, [list(cells)]).df()

    def cycles(self, cells: Sequence[str]) -> pd.DataFrame:
        """Resistances (mΩ) and efficiencies (%) of these cells, a row per valid cycle."""
        return self._database.execute(_CYCLES, [list(cells)]).df()

    def curves(self, cells: Sequence[str]) -> pd.DataFrame:
        """The valid cycles of these cells with a dQ/dV curve of their charge, with their SOH (%)."""
        return self._database.execute(_CURVES, [list(cells)]).df()

    def curve_points(self, curves: pd.DataFrame) -> pd.DataFrame:
        """The points of these curves."""
        return self._database.execute(_CURVE_POINTS, [curves["stage_key"].tolist()]).df()

    def machine_days(self, limit: int) -> pd.DataFrame:
        """Daily figures by machine; those of the whole fleet if it has more than `limit` of them."""
        kinds = {"min": "min", "mean": "avg", "max": "max"}
        figures = ", ".join(
            f"{function}({name.format(kind)}) as {name.format(kind)}"
            for name in QUANTITIES
            for kind, function in kinds.items()
        )
        return self._database.execute(_MACHINE_DAYS.format(limit=limit, figures=figures)).df()

    def _row(self, query: str) -> dict[str, Any]:
        answer = self._database.execute(query)
        names = [column[0] for column in answer.description or ()]
        return dict(zip(names, answer.fetchall()[0], strict=True))


def _check(database: duckdb.DuckDBPyConnection, warehouse: str) -> None:
    """Raises ConfigError where a model or a column is missing."""
    there: dict[str, set[str]] = {}
    for table, column in database.execute(
        """select table_name, column_name from information_schema.columns
        where table_catalog = current_database() and table_schema = 'main'"""
    ).fetchall():
        there.setdefault(table, set()).add(column)
    missing = [
        model if model not in there else f"{model}.{column}"
        for model, columns in COLUMNS.items()
        for column in columns
        if column not in there.get(model, ())
    ]
    if missing:
        names = list(dict.fromkeys(missing))
        rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise ConfigError(
            f"--warehouse={address(warehouse)}: the models are missing or of another version (no "
            f"{', '.join(names[:3])}{rest}); run make models WAREHOUSE={warehouse}, or "
            f"python -m pipeline.models --warehouse={address(warehouse)}"
        )
