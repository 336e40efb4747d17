{{ config(cluster_by=clusters(['equipment_id'])) }}

with

readings as (

    select * from {{ ref('battery_features') }}
    where equipment_type = 'battery_cell'

),

steps as (

    select * from {{ ref('battery_steps') }}

),

equipment as (

    select * from {{ ref('dim_equipment') }}

),

cycle_readings as (

    select
        equipment_id,
        test_key,
        test_cycle,
        cycle_restarts,
        min(test_id) as test_id,
        min(reading_seq) as first_reading_seq,
        min(recorded_at) as started_at,
        max(recorded_at) as ended_at,
        count(*) as readings,
        coalesce(sum(time_delta_s), 0.0) as duration_s,
        sum(dq_charge_ah) as charge_ah,
        sum(dq_discharge_ah) as discharge_ah,
        sum(de_charge_wh) as charge_wh,
        sum(de_discharge_wh) as discharge_wh,
        min(voltage_v) as v_min_v,
        max(voltage_v) as v_max_v,
        avg(internal_resistance_ohm) as internal_resistance_ohm,
        max(internal_resistance_ohm) as internal_resistance_max_ohm,
        avg(temperature_c) as temperature_mean_c,
        min(temperature_c) as temperature_min_c,
        max(temperature_c) as temperature_max_c,
        avg(ambient_temperature_c) as ambient_temperature_mean_c,
        min(charge_method) as charge_method,
        max(case when is_cycle_derived then 1 else 0 end) = 1 as is_cycle_derived,
        count(case when is_gap then 1 end) as gaps,
        count(case when is_flagged then 1 end) as flagged_readings

    from readings
    group by equipment_id, test_key, test_cycle, cycle_restarts

),

-- The step that discharged most and the last step that held the voltage stand for the cycle.
cycle_steps as (

    select
        test_key,
        test_cycle,
        cycle_restarts,
        count(*) as steps,
        min(case when direction = 'discharge' then voltage_min_v end) as discharge_end_voltage_v,
        max(case when direction = 'charge' then voltage_max_v end) as charge_end_voltage_v,
        max_by(
            current_end_a, case when step_type in ('cv_charge', 'cccv_charge') then step_run end
        ) as cv_end_current_a,
        max_by(
            (voltage_before_v - probe_voltage_v) / nullif(current_before_a - probe_current_a, 0.0),
            case when direction = 'discharge' then discharge_ah end
        ) as dc_resistance_30s_ohm,
        max_by(probe_elapsed_s, case when direction = 'discharge' then discharge_ah end)
            as dc_resistance_sample_s

    from steps
    group by test_key, test_cycle, cycle_restarts

),

joined as (

    select
        cycle_readings.*,
        cycle_steps.steps,
        cycle_steps.discharge_end_voltage_v,
        cycle_steps.charge_end_voltage_v,
        cycle_steps.cv_end_current_a,
        cycle_steps.dc_resistance_30s_ohm,
        cycle_steps.dc_resistance_sample_s,
        equipment.v_min_v as profile_v_min_v,
        equipment.nominal_capacity_ah,
        equipment.cutoff_current_a,
        max(case when cycle_steps.cv_end_current_a is not null then 1 else 0 end) over (
            partition by cycle_readings.equipment_id
        ) = 1 as cell_has_cv

    from cycle_readings
    inner join cycle_steps
        on
            cycle_readings.test_key = cycle_steps.test_key
            and cycle_readings.test_cycle = cycle_steps.test_cycle
            and cycle_readings.cycle_restarts = cycle_steps.cycle_restarts
    left join equipment on cycle_readings.equipment_id = equipment.equipment_id

),

-- The number of a cycle in the cell's life. It is given once, over all cycles, before anything is
-- judged or filtered.
numbered as (

    select
        *,
        row_number() over (
            partition by equipment_id
            order by started_at asc, test_key asc, first_reading_seq asc
        ) as cycle_number

    from joined

),

own_discharge_ends as (

    select
        equipment_id,
        {{ collect('discharge_end_voltage_v') }} as discharge_end_voltages

    from numbered
    group by equipment_id

),

-- A profile without a nominal capacity is a generic one: its voltage limits are safety bounds, not
-- what this cell was cycled between, so the cell's own usual discharge end takes their place.
with_cutoff as (

    select
        numbered.*,
        case
            when numbered.nominal_capacity_ah is not null and numbered.profile_v_min_v is not null
                then numbered.profile_v_min_v
            else {{ array_median('own_discharge_ends.discharge_end_voltages') }}
        end as discharge_cutoff_v

    from numbered
    left join own_discharge_ends on numbered.equipment_id = own_discharge_ends.equipment_id

),

judged as (

    select
        *,
        coalesce(
            charge_ah > 0
            and discharge_ah > 0
            and discharge_end_voltage_v
            <= discharge_cutoff_v + {{ var('cutoff_voltage_margin_v') }},
            false
        ) as is_complete,
        -- does not apply where no cut-off current is known or the cell is never held at a voltage
        coalesce(
            cutoff_current_a is null
            or not cell_has_cv
            or cv_end_current_a <= {{ var('cutoff_current_factor') }} * cutoff_current_a,
            false
        ) as is_fully_charged

    from with_cutoff

),

final as (

    select
        equipment_id || '|' || cast(cycle_number as string) as cycle_key,
        equipment_id,
        cycle_number,
        test_key,
        test_id,
        test_cycle,
        cycle_restarts,
        is_cycle_derived,
        started_at,
        ended_at,
        duration_s,
        readings,
        steps,
        charge_ah,
        discharge_ah,
        charge_wh,
        discharge_wh,
        discharge_ah / nullif(charge_ah, 0.0) as coulombic_efficiency,
        discharge_wh / nullif(charge_wh, 0.0) as energy_efficiency,
        charge_wh / nullif(charge_ah, 0.0) as charge_mean_voltage_v,
        discharge_wh / nullif(discharge_ah, 0.0) as discharge_mean_voltage_v,
        v_min_v,
        v_max_v,
        charge_end_voltage_v,
        discharge_end_voltage_v,
        discharge_cutoff_v,
        cv_end_current_a,
        dc_resistance_30s_ohm,
        dc_resistance_sample_s,
        internal_resistance_ohm,
        internal_resistance_max_ohm,
        temperature_mean_c,
        temperature_min_c,
        temperature_max_c,
        ambient_temperature_mean_c,
        charge_method,
        gaps,
        flagged_readings,
        is_complete,
        is_complete and is_fully_charged as is_valid

    from judged

)

select * from final
