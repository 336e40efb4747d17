-- Materialized: the limits and the swings both read it.
{{ config(materialized='table', cluster_by=clusters(['equipment_id', 'test_key'])) }}

with

readings as (

    select * from {{ ref('battery_features') }}
    where
        equipment_type = 'battery_cell'
        and is_impedance is not true
        and swing_number is not null

),

totals as (

    select
        equipment_id,
        test_key,
        swing_number,
        min(test_id) as test_id,
        min(reading_seq) as first_reading_seq,
        max(reading_seq) as last_reading_seq,
        min(recorded_at) as started_at,
        max(recorded_at) as ended_at,
        count(*) as readings,
        -- the cycle in which the swing comes to its end, a rest after it left out
        max_by(test_cycle, case when phase <> 'rest' then reading_seq end) as test_cycle,
        max_by(cycle_restarts, case when phase <> 'rest' then reading_seq end) as cycle_restarts,
        max_by(level_ah, reading_seq) as end_level_ah,
        coalesce(
            sum(case when not is_resting then dq_charge_ah - dq_discharge_ah end), 0.0
        ) as level_change_ah,
        coalesce(sum(case when not is_resting then dq_charge_ah end), 0.0) as gross_charge_ah,
        coalesce(sum(case when not is_resting then dq_discharge_ah end), 0.0)
            as gross_discharge_ah,
        coalesce(sum(case when not is_resting then de_charge_wh - de_discharge_wh end), 0.0)
            as energy_change_wh,
        -- a gap says nothing of the time a current flowed
        sum(case when phase = 'charge' and not is_gap then time_delta_s end) as charge_time_s,
        sum(case when phase = 'charge' and not is_gap then dq_charge_ah end) as timed_charge_ah,
        sum(case when phase = 'discharge' and not is_gap then time_delta_s end)
            as discharge_time_s,
        sum(case when phase = 'discharge' and not is_gap then dq_discharge_ah end)
            as timed_discharge_ah,
        sum(case when phase = 'rest' then time_delta_s end) as rest_time_s,
        sum(time_delta_s) as duration_s,
        count(case when phase = 'rest' and is_step_start then 1 end) as rests,
        count(case when is_load_change then 1 end) as load_changes,
        max(case when phase = 'charge' then voltage_v end) as charge_max_voltage_v,
        max_by(voltage_v, case when phase = 'charge' then reading_seq end)
            as charge_end_voltage_v,
        max_by(current_a, case when phase = 'charge' then reading_seq end)
            as charge_end_current_a,
        max(case when phase = 'charge' then current_a end) as charge_max_current_a,
        max_by(voltage_v, case when phase = 'discharge' then reading_seq end)
            as discharge_end_voltage_v,
        count(case when is_gap then 1 end) as gaps

    from readings
    group by equipment_id, test_key, swing_number

),

final as (

    select
        equipment_id,
        test_key,
        swing_number,
        test_id,
        test_cycle,
        cycle_restarts,
        first_reading_seq,
        last_reading_seq,
        started_at,
        ended_at,
        readings,
        case when level_change_ah > 0.0 then 'charge' else 'discharge' end as direction,
        end_level_ah,
        abs(level_change_ah) as net_ah,
        abs(energy_change_wh) as net_wh,
        case when level_change_ah > 0.0 then gross_discharge_ah else gross_charge_ah end
            as reverse_ah,
        duration_s,
        rest_time_s,
        rests,
        load_changes,
        case when level_change_ah > 0.0 then charge_time_s else discharge_time_s end
            as loaded_time_s,
        case
            when level_change_ah > 0.0 then 3600.0 * timed_charge_ah / nullif(charge_time_s, 0.0)
            else 3600.0 * timed_discharge_ah / nullif(discharge_time_s, 0.0)
        end as mean_current_a,
        charge_max_voltage_v,
        charge_end_voltage_v,
        charge_end_current_a,
        charge_max_current_a,
        discharge_end_voltage_v,
        gaps

    from totals
    where test_cycle is not null

)

select * from final
