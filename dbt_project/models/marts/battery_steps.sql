{{ config(
    materialized=by_part('table'),
    meta={'part': 'equipment', 'inputs': ['battery_features']},
    partition_by=partitions('started_at', 'timestamp', 'month'),
    cluster_by=clusters(['equipment_id', 'test_key'])
) }}

with

readings as (

    select * from {{ ref('battery_features') }}
    where
        equipment_type = 'battery_cell'
        and is_impedance is not true
        and {{ is_in_batch() }}

),

with_context as (

    select
        *,
        lag(voltage_v) over in_test as previous_voltage_v,
        lag(current_a) over in_test as previous_current_a,
        -- How fast the voltage moves, from one reading to the next and over many: a voltage that
        -- settles moves the less the later, so that the lesser of the two is an upper bound with
        -- less noise.
        case
            when not is_step_start
                then
                    least(
                        abs(voltage_v - lag(voltage_v) over in_test)
                        / nullif(time_delta_s, 0.0),
                        coalesce(
                            abs(
                                case
                                    when lag(step_run, 30) over in_test = step_run
                                        then voltage_v - lag(voltage_v, 30) over in_test
                                end
                            ) / nullif(
                                {{ seconds_between(
                                    'lag(recorded_at, 30) over in_test', 'recorded_at'
                                ) }},
                                0.0
                            ),
                            abs(voltage_v - lag(voltage_v) over in_test)
                            / nullif(time_delta_s, 0.0)
                        )
                    )
        end as voltage_drift_v_s,
        -- The time that a reading stands for within its step; the first one also for all that the
        -- step's clock says has passed of it.
        {{ half_intervals('is_gap or is_step_start') }}
        + case
            when is_gap or not is_step_start then 0.0
            when step_time_s <= time_delta_s then step_time_s
            when step_time_s > time_delta_s then time_delta_s
            else 0.0
        end as step_weight_s

    from readings
    window in_test as (partition by test_key order by reading_seq)

),

-- Groups and a join are cheaper than another window over all readings.
step_currents as (

    select
        test_key,
        step_run,
        max(abs(current_a)) as step_max_current_a

    from readings
    group by test_key, step_run

),

with_step_current as (

    select
        with_context.*,
        step_currents.step_max_current_a

    from with_context
    inner join step_currents
        on
            with_context.test_key = step_currents.test_key
            and with_context.step_run = step_currents.step_run

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
        max_by(
            voltage_drift_v_s, case when voltage_drift_v_s is not null then reading_seq end
        ) as voltage_drift_end_v_s

    from with_step_current
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
        voltage_drift_end_v_s,
        rest_current_a

    from with_control

)

select * from final
