with

steps as (

    select * from {{ ref('battery_steps') }}

),

counted as (

    select
        *,
        current_before_a is not null and first_reading_seq > 1 as has_reading_before,
        -- rest_current_a is a share of the rated current
        {{ var('resistance_min_current_share') }} / {{ var('rest_current_fraction') }}
        * rest_current_a as min_change_a,
        charge_ah - discharge_ah as moved_ah,
        sum(charge_ah - discharge_ah) over (
            partition by test_key
            order by step_run
            rows between unbounded preceding and current row
        ) as level_after_ah,
        lag(duration_s) over (partition by test_key order by step_run) as previous_duration_s,
        direction = 'rest' and duration_s >= {{ var('resistance_rest_s') }} as is_long_rest,
        lag(voltage_drift_end_v_s) over (partition by test_key order by step_run) as drift_v_s

    from steps

),

levelled as (

    select
        *,
        level_after_ah - moved_ah as level_ah,
        max(greatest(level_after_ah, level_after_ah - moved_ah)) over cycle as level_max_ah,
        min(least(level_after_ah, level_after_ah - moved_ah)) over cycle as level_min_ah,
        max(case when direction <> 'rest' then step_run end) over (
            partition by test_key
            order by step_run
            rows between unbounded preceding and 1 preceding
        ) as previous_load_run,
        max(case when is_long_rest then step_run end) over (
            partition by test_key
            order by step_run
            rows between unbounded preceding and 1 preceding
        ) as rest_before_run,
        min(case when is_long_rest then step_run end) over (
            partition by test_key
            order by step_run
            rows between 1 following and unbounded following
        ) as rest_after_run

    from counted
    window cycle as (partition by test_key, test_cycle, cycle_restarts)

),

rests as (

    select
        test_key,
        step_run,
        voltage_end_v,
        level_ah,
        voltage_drift_end_v_s,
        level_ah - lag(level_ah) over rest_order as from_previous_ah,
        (voltage_end_v - lag(voltage_end_v) over rest_order)
        / nullif(level_ah - lag(level_ah) over rest_order, 0.0) as slope_from_previous,
        lead(level_ah) over rest_order - level_ah as to_next_ah,
        (lead(voltage_end_v) over rest_order - voltage_end_v)
        / nullif(lead(level_ah) over rest_order - level_ah, 0.0) as slope_to_next

    from levelled
    where is_long_rest
    window rest_order as (partition by test_key order by step_run)

),

-- A held voltage changes the current, but not at once.
final as (

    select
        levelled.*,
        case
            when levelled.level_max_ah > levelled.level_min_ah
                then
                    (levelled.level_ah - levelled.level_min_ah)
                    / (levelled.level_max_ah - levelled.level_min_ah)
        end as charge_level,
        -- Volts per ampere-hour between the rests before and after, and how far that may be off:
        -- the rests are not over, and the slope is another in the stretches before and after.
        case
            when
                abs(rests_after.level_ah - rests_before.level_ah)
                <= {{ var('resistance_rest_span') }}
                * (levelled.level_max_ah - levelled.level_min_ah)
                then rests_before.slope_to_next
        end as rests_slope_v_ah,
        (
            {{ var('resistance_rest_noise_v') }}
            + {{ var('resistance_rest_s') }}
            * (rests_before.voltage_drift_end_v_s + rests_after.voltage_drift_end_v_s)
        ) / nullif(abs(rests_before.to_next_ah), 0.0)
        + case
            when
                levelled.duration_s <= 60.0
                and abs(rests_before.to_next_ah) <= 1.5 * abs(levelled.moved_ah)
                then 0.0
            else
                greatest(
                    coalesce(
                        abs(rests_before.slope_from_previous - rests_before.slope_to_next),
                        abs(rests_after.slope_to_next - rests_before.slope_to_next)
                    ),
                    coalesce(
                        abs(rests_after.slope_to_next - rests_before.slope_to_next),
                        abs(rests_before.slope_from_previous - rests_before.slope_to_next)
                    )
                )
        end as rests_slope_error_v_ah

    from levelled
    left join rests as rests_before
        on
            levelled.test_key = rests_before.test_key
            and levelled.rest_before_run = rests_before.step_run
    left join rests as rests_after
        on
            levelled.test_key = rests_after.test_key
            and levelled.rest_after_run = rests_after.step_run
    where
        levelled.has_reading_before
        and levelled.step_type not in ('cv_charge', 'cv_discharge')
        and greatest(
            abs(levelled.current_max_a - levelled.current_before_a),
            abs(levelled.current_min_a - levelled.current_before_a)
        ) >= levelled.min_change_a

)

select * from final
