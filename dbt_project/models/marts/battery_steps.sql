{{ config(
    partition_by=partitions('started_at', 'timestamp', 'month'),
    cluster_by=clusters(['equipment_id', 'test_key'])
) }}

with

readings as (

    select * from {{ ref('battery_features') }}
    where equipment_type = 'battery_cell' and is_impedance is not true

),

with_context as (

    select
        *,
        lag(voltage_v) over (partition by test_key order by reading_seq) as previous_voltage_v,
        lag(current_a) over (partition by test_key order by reading_seq) as previous_current_a,
        max(abs(current_a)) over (partition by test_key, step_run) as step_max_current_a,
        -- The time that a reading stands for within its step; the first one also for all that the
        -- step's clock says has passed of it.
        {{ half_intervals('is_gap or is_step_start') }}
        + case
            when is_gap or not is_step_start then 0.0
            when step_time_s <= time_delta_s then step_time_s
            when step_time_s > time_delta_s then time_delta_s
            else 0.0
        end as step_weight_s,
        -- time since the step began: the tester's, or the sum of the intervals
        coalesce(
            step_time_s,
            sum(time_delta_s) over (
                partition by test_key, step_run
                order by reading_seq
                rows between unbounded preceding and current row
            )
        ) as elapsed_s

    from readings
    window in_test as (partition by test_key order by reading_seq)

),

with_probe as (

    select
        *,
        -- distance from the sample wanted for the resistance; null where none is near enough
        case
            when
                elapsed_s >= {{ var('dc_resistance_min_s') }}
                and elapsed_s <= {{ var('dc_resistance_max_s') }}
                then abs(elapsed_s - 30.0)
        end as probe_distance_s

    from with_context

),

aggregated as (

    select
        test_key,
        step_run,
        min(equipment_id) as equipment_id,
        min(test_id) as test_id,
        min(test_cycle) as test_cycle,
        min(cycle_restarts) as cycle_restarts,
        min(step_index) as step_index,
        min(reading_seq) as first_reading_seq,
        min(recorded_at) as started_at,
        max(recorded_at) as ended_at,
        count(*) as readings,
        coalesce(sum(time_delta_s), 0.0) as duration_s,
        sum(dq_charge_ah) as charge_ah,
        sum(dq_discharge_ah) as discharge_ah,
        sum(de_charge_wh) as charge_wh,
        sum(de_discharge_wh) as discharge_wh,
        min_by(voltage_v, reading_seq) as voltage_start_v,
        max_by(voltage_v, reading_seq) as voltage_end_v,
        min(voltage_v) as voltage_min_v,
        max(voltage_v) as voltage_max_v,
        min_by(current_a, reading_seq) as current_start_a,
        max_by(current_a, reading_seq) as current_end_a,
        min(current_a) as current_min_a,
        max(current_a) as current_max_a,
        {{ time_mean('current_a', 'step_weight_s') }} as current_mean_a,
        max(step_max_current_a) as current_max_abs_a,
        max(rest_current_a) as rest_current_a,
        {{ time_mean('temperature_c', 'step_weight_s') }} as temperature_mean_c,
        max(case when is_gap then 1 else 0 end) = 1 as has_gap,
        -- how much of the step ran at its largest current
        sum(
            case when abs(current_a) >= 0.95 * step_max_current_a then time_delta_s else 0.0 end
        ) / nullif(sum(time_delta_s), 0.0) as full_current_share,
        -- what the resistance needs
        min_by(coalesce(previous_voltage_v, voltage_v), reading_seq) as voltage_before_v,
        min_by(coalesce(previous_current_a, current_a), reading_seq) as current_before_a,
        min_by(voltage_v, probe_distance_s) as probe_voltage_v,
        min_by(current_a, probe_distance_s) as probe_current_a,
        min_by(elapsed_s, probe_distance_s) as probe_elapsed_s

    from with_probe
    group by test_key, step_run

),

with_direction as (

    select
        *,
        case
            when current_max_abs_a <= rest_current_a then 'rest'
            when current_mean_a >= 0 then 'charge'
            else 'discharge'
        end as direction

    from aggregated

),

-- Constant current stays at its largest value; constant voltage falls from it at once; a step
-- without a number of its own may hold both.
with_control as (

    select
        *,
        case
            when direction = 'rest' then null
            when readings = 1 or coalesce(full_current_share, 1.0) >= 0.97 then 'cc'
            when abs(current_end_a) >= 0.9 * current_max_abs_a
                then case when full_current_share >= 0.9 then 'cc' else 'varying' end
            when full_current_share < 0.25 then 'cv'
            else 'cccv'
        end as control

    from with_direction

),

final as (

    select
        test_key || '|' || cast(step_run as string) as step_key,
        equipment_id,
        test_key,
        test_id,
        test_cycle,
        cycle_restarts,
        step_run,
        step_index,
        direction,
        case when direction = 'rest' then 'rest' else control || '_' || direction end as step_type,
        first_reading_seq,
        started_at,
        ended_at,
        readings,
        duration_s,
        charge_ah,
        discharge_ah,
        charge_wh,
        discharge_wh,
        voltage_start_v,
        voltage_end_v,
        voltage_min_v,
        voltage_max_v,
        current_start_a,
        current_end_a,
        current_min_a,
        current_max_a,
        current_mean_a,
        temperature_mean_c,
        has_gap,
        voltage_before_v,
        current_before_a,
        probe_voltage_v,
        probe_current_a,
        probe_elapsed_s

    from with_control

)

select * from final
