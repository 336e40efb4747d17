{%- set window_s = var('resistance_window_s') -%}
with

readings as (

    select * from {{ ref('battery_features') }}
    where equipment_type = 'battery_cell' and is_impedance is not true

),

loads as (

    select * from {{ ref('int_load_changes') }}

),

beginnings as (

    select
        readings.test_key,
        readings.step_run,
        readings.reading_seq,
        readings.voltage_v,
        readings.current_a,
        readings.time_delta_s,
        readings.step_time_s,
        readings.is_gap,
        loads.first_reading_seq,
        loads.voltage_before_v,
        loads.current_before_a,
        loads.min_change_a

    from readings
    inner join loads
        on readings.test_key = loads.test_key and readings.step_run = loads.step_run
    where
        readings.step_time_s <= {{ window_s }}
        or {{ seconds_between('loads.started_at', 'readings.recorded_at') }} <= {{ window_s }}

),

with_first as (

    select
        *,
        first_value(current_a) over so_far as first_current_a,
        first_value(voltage_v) over so_far as first_voltage_v,
        coalesce(first_value(time_delta_s) over so_far, 0.0) as first_interval_s,
        coalesce(first_value(is_gap) over so_far, false) as begins_with_gap,
        -- a step's clock that says that the step is older than the reading before it is another's
        case
            when
                first_value(step_time_s) over so_far
                <= 1.0 + 1.02 * coalesce(first_value(time_delta_s) over so_far, 0.0)
                then first_value(step_time_s) over so_far
        end as first_step_time_s,
        sum(time_delta_s) over so_far as since_reading_before_s

    from beginnings
    window so_far as (
        partition by test_key, step_run
        order by reading_seq
        rows between unbounded preceding and current row
    )

),

-- Time since the step began; without the step's clock, since the reading before it. Some cyclers
-- write the first reading of a step before they switch the current.
with_clock as (

    select
        *,
        abs(first_current_a - current_before_a) < 0.1 * min_change_a as is_switched_late,
        case
            when first_step_time_s is null then since_reading_before_s
            else
                coalesce(
                    step_time_s, since_reading_before_s - first_interval_s + first_step_time_s
                )
        end as clock_s

    from with_first

),

with_switch as (

    select
        *,
        case
            when not is_switched_late then 0.0
            when first_step_time_s <= 0.1 then 0.0
            else min(clock_s) over step
        end as origin_s,
        -- the step began this much later than elapsed_s says, or less
        case
            when is_switched_late
                then
                    case
                        when first_step_time_s <= 0.1 then 0.0
                        else
                            max(case when reading_seq = first_reading_seq + 1 then clock_s end)
                                over step
                            - min(clock_s) over step
                    end
            when first_step_time_s is null then first_interval_s
            else 0.0
        end as start_uncertainty_s,
        case
            when is_switched_late then 0.0
            else greatest(first_interval_s - coalesce(first_step_time_s, 0.0), 0.0)
        end as reading_before_age_s

    from with_clock
    window step as (partition by test_key, step_run)

),

loaded as (

    select
        test_key,
        step_run,
        reading_seq,
        voltage_v,
        current_a,
        begins_with_gap,
        start_uncertainty_s,
        reading_before_age_s,
        min_change_a,
        clock_s - origin_s as elapsed_s,
        case when is_switched_late then first_voltage_v else voltage_before_v end
            as voltage_before_v,
        case when is_switched_late then first_current_a else current_before_a end
            as current_before_a

    from with_switch
    where reading_seq > first_reading_seq or not is_switched_late

),

final as (

    select
        *,
        (voltage_v - voltage_before_v) / nullif(current_a - current_before_a, 0.0) as ohm,
        first_value(current_a) over so_far as load_current_a,
        -- a current needs a moment to settle
        coalesce(
            max(case when elapsed_s >= 0.5 then current_a end) over so_far
            - min(case when elapsed_s >= 0.5 then current_a end) over so_far
            <= {{ var('resistance_current_tolerance') }} * abs(current_a - current_before_a),
            true
        ) as is_constant

    from loaded
    window so_far as (
        partition by test_key, step_run
        order by reading_seq
        rows between unbounded preceding and current row
    )

)

select * from final
