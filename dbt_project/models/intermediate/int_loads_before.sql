{#- The times after the change of current that a resistance is corrected for, s. -#}
{%- set times = [10, 30] %}

with

loads as (

    select * from {{ ref('int_load_changes') }}

),

estimates as (

    select * from {{ ref('int_load_estimates') }}

),

steps as (

    select
        *,
        lead(started_at) over (partition by test_key order by step_run) as next_started_at

    from {{ ref('battery_steps') }}

),

limits as (

    select * from {{ ref('int_cell_limits') }}

),

readings as (

    select * from {{ ref('battery_features') }}

),

-- Loads that follow another, a rest between at most.
after_load as (

    select
        loads.test_key,
        loads.step_run,
        abs(estimates.current_a - estimates.current_before_a) as change_a,
        abs(estimates.current_a) as load_a,
        before.direction <> loads.direction as is_turn,
        before.step_run as before_run,
        before.started_at,
        before.ended_at,
        before.voltage_end_v,
        before.current_end_a,
        -- what the load before may have moved after its last reading
        abs(before.current_end_a) / 3600.0
        * coalesce(
            ends.reading_before_age_s,
            {{ seconds_between('before.ended_at', 'before.next_started_at') }}
        ) as unseen_ah,
        loads.direction = 'discharge'
        and before.step_type in ('cv_charge', 'cccv_charge') as is_held,
        before.step_type in ('cc_charge', 'cc_discharge') as is_constant,
        coalesce(
            loads.direction = 'charge'
            or before.direction = 'discharge'
            or before.voltage_max_v < limits.upper_limit_v - {{ var('cutoff_voltage_margin_v') }},
            false
        ) as is_below_limit

    from loads
    inner join estimates
        on loads.test_key = estimates.test_key and loads.step_run = estimates.step_run
    inner join steps as before
        on
            loads.test_key = before.test_key
            and loads.previous_load_run = before.step_run
    left join estimates as ends
        on
            before.test_key = ends.test_key
            and before.step_run + 1 = ends.step_run
    left join limits on loads.equipment_id = limits.equipment_id
    where loads.direction <> 'rest'

),

-- Its last readings: of a held voltage the current, of a constant current the voltage, with the
-- sign that makes it fall towards the end.
last_readings as (

    select
        after_load.test_key,
        after_load.step_run,
        after_load.is_held,
        after_load.load_a,
        after_load.change_a,
        after_load.unseen_ah,
        readings.reading_seq,
        readings.level_ah,
        case
            when after_load.is_held then readings.current_a
            else -sign(after_load.current_end_a) * readings.voltage_v
        end as held_value,
        after_load.is_held
        or abs(readings.current_a - after_load.current_end_a)
        <= {{ var('resistance_current_tolerance') }} * abs(after_load.current_end_a)
            as is_constant,
        {{ seconds_between('after_load.started_at', 'readings.recorded_at') }} as elapsed_s

    from after_load
    inner join readings
        on
            after_load.test_key = readings.test_key
            and after_load.before_run = readings.step_run
    where
        (after_load.is_held and abs(readings.voltage_v - after_load.voltage_end_v) <= 0.005)
        or (
            after_load.is_constant
            and abs(after_load.current_end_a)
            * {{ seconds_between('readings.recorded_at', 'after_load.ended_at') }}
            <= {{ var('resistance_before_span') }} * 30.0 * after_load.load_a
            + 600.0 * abs(after_load.current_end_a)
        )

),

-- The charge that it still moved after each reading.
with_to_come as (

    select
        *,
        abs(last_value(level_ah) over in_order - level_ah) as to_come_ah,
        last_value(held_value) over in_order as end_value

    from last_readings
    window in_order as (
        partition by test_key, step_run
        order by reading_seq
        rows between unbounded preceding and unbounded following
    )

),

with_neighbours as (

    select
        *,
        lag(to_come_ah) over backwards as nearer_ah,
        lag(held_value) over backwards as nearer_value,
        lag(to_come_ah, 2) over backwards as nearest_ah,
        lag(held_value, 2) over backwards as nearest_value,
        lead(to_come_ah) over backwards as farther_ah,
        -- of a held voltage not those that the current had not yet fallen from
        case
            when
                lead(is_constant) over backwards
                and (not is_held or lead(held_value) over backwards > 1.02 * held_value)
                then lead(held_value) over backwards
        end as farther_value,
        min(case when is_constant then 1 else 0 end) over (
            partition by test_key, step_run
            order by reading_seq desc
            rows between unbounded preceding and current row
        ) = 1 as is_constant_since

    from with_to_come
    window backwards as (partition by test_key, step_run order by reading_seq desc)

),

targets as (

    {% for seconds in times -%}
        select {{ seconds }} as at_s
        {% if not loop.last %}union all{% endif %}
    {% endfor %}
),

-- The readings on either side of the charge that the step moves until then.
placed as (

    select
        with_neighbours.*,
        targets.at_s,
        targets.at_s / 3600.0
        * case
            when with_neighbours.is_held then with_neighbours.change_a
            else with_neighbours.load_a
        end as moved_ah

    from with_neighbours
    cross join targets

),

-- The value there: on the parabola through the two readings that bends by the mean of what the next
-- reading on either side says. It may be off by as much as the larger of the two bends.
with_bends as (

    select
        *,
        nearer_value
        + (held_value - nearer_value) * (moved_ah - nearer_ah) / (to_come_ah - nearer_ah) as chord,
        (moved_ah - nearer_ah) * (to_come_ah - moved_ah) as beside,
        (
            (held_value - nearer_value) / (to_come_ah - nearer_ah)
            - (nearer_value - nearest_value) / nullif(nearer_ah - nearest_ah, 0.0)
        ) / nullif(to_come_ah - nearest_ah, 0.0) as bend_near,
        (
            (farther_value - held_value) / nullif(farther_ah - to_come_ah, 0.0)
            - (held_value - nearer_value) / (to_come_ah - nearer_ah)
        ) / nullif(farther_ah - nearer_ah, 0.0) as bend_far

    from placed
    where
        to_come_ah >= moved_ah
        and nearer_ah < moved_ah
        and is_constant_since
        and (is_held or elapsed_s >= {{ var('resistance_settled_s') }})

),

interpolated as (

    select
        *,
        chord
        - beside * (coalesce(bend_near, bend_far) + coalesce(bend_far, bend_near)) / 2.0
        - end_value as fallen,
        beside * greatest(
            abs(coalesce(bend_near, bend_far)), abs(coalesce(bend_far, bend_near))
        ) as bend_error

    from with_bends
    where coalesce(bend_near, bend_far) is not null

),

fallen as (

    select
        test_key,
        step_run,
        at_s,
        is_held,
        fallen,
        bend_error
        + case when is_held then 0.0 else abs(fallen) * unseen_ah / moved_ah end as fallen_error

    from interpolated

),

by_step as (

    select
        test_key,
        step_run
        {% for seconds in times -%}
            {% for unit, condition in {'a': 'is_held', 'v': 'not is_held'}.items() -%}
                ,
                max(case when at_s = {{ seconds }} and {{ condition }} then fallen end)
                    as fallen_{{ seconds }}_{{ unit }},
                max(case when at_s = {{ seconds }} and {{ condition }} then fallen_error end)
                    as fallen_error_{{ seconds }}_{{ unit }}
            {%- endfor %}
        {%- endfor %}

    from fallen
    group by test_key, step_run

),

final as (

    select
        after_load.test_key,
        after_load.step_run,
        after_load.is_turn,
        after_load.is_below_limit
        {% for seconds in times -%}
            {% for unit in ['a', 'v'] -%}
                ,
                by_step.fallen_{{ seconds }}_{{ unit }},
                by_step.fallen_error_{{ seconds }}_{{ unit }}
            {%- endfor %}
        {%- endfor %}

    from after_load
    left join by_step
        on
            after_load.test_key = by_step.test_key
            and after_load.step_run = by_step.step_run

)

select * from final
