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

    select * from {{ ref('battery_steps') }}

),

limits as (

    select * from {{ ref('int_cell_limits') }}

),

readings as (

    select * from {{ ref('battery_features') }}

),

-- Discharges that follow a charge, a rest between at most.
after_charge as (

    select
        loads.test_key,
        loads.step_run,
        abs(estimates.current_a - estimates.current_before_a) as load_a,
        charges.step_run as charge_run,
        charges.step_type as charge_type,
        charges.voltage_end_v,
        charges.current_end_a,
        coalesce(
            charges.voltage_max_v < limits.upper_limit_v - {{ var('cutoff_voltage_margin_v') }},
            false
        ) as is_below_limit

    from loads
    inner join estimates
        on loads.test_key = estimates.test_key and loads.step_run = estimates.step_run
    inner join steps as charges
        on
            loads.test_key = charges.test_key
            and loads.previous_load_run = charges.step_run
            and charges.direction = 'charge'
    left join limits on loads.equipment_id = limits.equipment_id
    where loads.direction = 'discharge'

),

held_readings as (

    select
        after_charge.test_key,
        after_charge.step_run,
        after_charge.load_a,
        after_charge.current_end_a,
        readings.current_a,
        readings.level_ah

    from after_charge
    inner join readings
        on
            after_charge.test_key = readings.test_key
            and after_charge.charge_run = readings.step_run
    where
        after_charge.charge_type in ('cv_charge', 'cccv_charge')
        and abs(readings.voltage_v - after_charge.voltage_end_v) <= 0.005

),

held_ends as (

    select
        test_key,
        step_run,
        max(level_ah) as end_level_ah

    from held_readings
    group by test_key, step_run

),

-- The current of a held charge over the charge still to come until its end.
with_to_come as (

    select
        held_readings.*,
        held_ends.end_level_ah - held_readings.level_ah as to_come_ah

    from held_readings
    inner join held_ends
        on
            held_readings.test_key = held_ends.test_key
            and held_readings.step_run = held_ends.step_run

),

-- Between the readings on either side of the charge that the discharge moves until then.
brackets as (

    select
        test_key,
        step_run,
        max(current_end_a) as current_end_a
        {% for seconds in times -%}
            {%- set moved = '(load_a * ' ~ seconds ~ ' / 3600.0)' -%},
            min(case when to_come_ah >= {{ moved }} then to_come_ah end) as more_{{ seconds }}_ah,
            min_by(current_a, case when to_come_ah >= {{ moved }} then to_come_ah end)
                as more_{{ seconds }}_a,
            max(case when to_come_ah < {{ moved }} then to_come_ah end) as less_{{ seconds }}_ah,
            max_by(current_a, case when to_come_ah < {{ moved }} then to_come_ah end)
                as less_{{ seconds }}_a,
            max({{ moved }}) as moved_{{ seconds }}_ah
        {%- endfor %}

    from with_to_come
    group by test_key, step_run

),

final as (

    select
        after_charge.test_key,
        after_charge.step_run,
        after_charge.is_below_limit
        {% for seconds in times -%}
            ,
            brackets.less_{{ seconds }}_a
            + (brackets.more_{{ seconds }}_a - brackets.less_{{ seconds }}_a)
            * (brackets.moved_{{ seconds }}_ah - brackets.less_{{ seconds }}_ah)
            / nullif(brackets.more_{{ seconds }}_ah - brackets.less_{{ seconds }}_ah, 0.0)
            - brackets.current_end_a as fallen_{{ seconds }}_a
        {%- endfor %}

    from after_charge
    left join brackets
        on
            after_charge.test_key = brackets.test_key
            and after_charge.step_run = brackets.step_run

)

select * from final
