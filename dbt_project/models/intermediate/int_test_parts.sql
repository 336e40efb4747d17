{{ config(materialized='table') }}
{#- The counters, and what may have flowed through each between two files. -#}
{%- set counters = {
    'charge_capacity_ah': 'flow_ah', 'discharge_capacity_ah': 'flow_ah',
    'charge_energy_wh': 'flow_wh', 'discharge_energy_wh': 'flow_wh'
} -%}
{%- set edge_columns = [
    'recorded_at', 'test_time_s', 'step_time_s', 'cycle_index', 'step_index', 'voltage_v',
    'current_a'
] + counters.keys() | list -%}

with

readings as (

    select * from {{ ref('battery_cleaned') }}

),

parts as (

    select
        test_key as part_key,
        equipment_id,
        min(test_id) as part_test_id,
        min(recorded_at) as started_at,
        max(recorded_at) as ended_at,
        count(*) as readings

    from readings
    group by test_key, equipment_id

),

-- Only a test that is named after its file, by equipment and first reading, may be a part of one.
-- A test that names itself keeps its name.
with_origin as (

    select
        *,
        coalesce(
            starts_with(part_test_id, equipment_id || '@')
            and {{ matches_fully(
                "substr(part_test_id, length(equipment_id) + 1)",
                "'@[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z'"
            ) }},
            false
        ) as is_file

    from parts

),

with_siblings as (

    select
        *,
        is_file and count(*) over (partition by equipment_id, is_file) > 1 as may_join

    from with_origin

),

-- First and last reading of each part ------------------------------------------------------------

edges as (

    select
        readings.*,
        with_siblings.started_at,
        with_siblings.ended_at

    from readings
    inner join with_siblings on readings.test_key = with_siblings.part_key
    where
        with_siblings.may_join
        and (
            readings.recorded_at = with_siblings.started_at
            or readings.recorded_at = with_siblings.ended_at
        )

),

firsts as (

    select *
    from edges
    where recorded_at = started_at
    qualify row_number() over (partition by test_key order by {{ reading_order() }}) = 1

),

lasts as (

    select *
    from edges
    where recorded_at = ended_at
    qualify
        row_number() over (partition by test_key order by {{ reading_order() }})
        = count(*) over (partition by test_key)

),

edged as (

    select
        {% for column in edge_columns -%}
            firsts.{{ column }} as first_{{ column }},
            lasts.{{ column }} as last_{{ column }},
        {% endfor -%}
        with_siblings.part_key,
        with_siblings.equipment_id,
        {{ seconds_between('with_siblings.started_at', 'with_siblings.ended_at') }}
        / nullif(with_siblings.readings - 1, 0) as interval_s

    from with_siblings
    inner join firsts on with_siblings.part_key = firsts.test_key
    inner join lasts on with_siblings.part_key = lasts.test_key

),

with_previous as (

    select
        {% for column in edge_columns -%}
            lag(last_{{ column }}) over in_equipment as previous_{{ column }},
        {% endfor -%}
        *,
        lag(part_key) over in_equipment as previous_part_key,
        lag(interval_s) over in_equipment as previous_interval_s

    from edged
    window in_equipment as (
        partition by equipment_id
        order by first_recorded_at, part_key
    )

),

-- Does a part continue the one before it? --------------------------------------------------------

with_steps as (

    select
        *,
        {{ seconds_between('previous_recorded_at', 'first_recorded_at') }} as wall_s,
        first_test_time_s - previous_test_time_s as clock_s,
        coalesce(
            first_test_time_s - previous_test_time_s,
            {{ seconds_between('previous_recorded_at', 'first_recorded_at') }}
        ) as elapsed_s,
        greatest(
            {{ var('part_clock_noise_s') }},
            {{ var('clock_tolerance') }}
            * {{ seconds_between('previous_recorded_at', 'first_recorded_at') }}
        ) as clock_noise_s

    from with_previous
    where previous_part_key is not null

),

with_flow as (

    select
        *,
        {{ var('counter_flow_factor') }}
        * greatest(abs(first_current_a), abs(previous_current_a))
        * elapsed_s / 3600.0 as flow_ah,
        {{ var('counter_flow_factor') }}
        * greatest(
            abs(first_voltage_v * first_current_a), abs(previous_voltage_v * previous_current_a)
        )
        * elapsed_s / 3600.0 as flow_wh,
        abs(first_step_time_s - previous_step_time_s - elapsed_s) <= clock_noise_s
            as is_same_step,
        -- a step that began since, or a cycle that did
        coalesce(
            first_step_time_s <= elapsed_s + clock_noise_s,
            first_step_index <> previous_step_index,
            false
        )
        or coalesce(first_cycle_index <> previous_cycle_index, false) as is_new_step

    from with_steps

),

judged as (

    select
        part_key,
        case
            when wall_s < 0 then 'their readings overlap in time'
            when (first_test_time_s is null) <> (previous_test_time_s is null)
                then 'only one of the two files has a test clock'
            when clock_s < 0 then 'the test clock restarts'
            when abs(clock_s - wall_s) > clock_noise_s
                then 'the test clock and the wall clock differ between the files'
            when first_cycle_index - previous_cycle_index not in (0, 1)
                then 'the cycle index does not continue'
            when not (is_same_step or first_step_time_s <= elapsed_s + clock_noise_s)
                then 'the step clock does not continue'
            {% for counter, flow in counters.items() -%}
                when
                    abs(first_{{ counter }} - previous_{{ counter }})
                    > {{ flow }} + {{ var('charge_noise_share') }} * previous_{{ counter }} + 1e-6
                    and not (is_new_step and first_{{ counter }} <= {{ flow }} + 1e-6)
                    then 'the counter {{ counter }} does not continue'
            {% endfor -%}
            -- without a test clock the readings themselves must show it
            when
                clock_s is null
                and not coalesce(
                    wall_s <= {{ var('part_interval_factor') }} * least(
                        coalesce(previous_interval_s, interval_s),
                        coalesce(interval_s, previous_interval_s)
                    ),
                    false
                )
                then 'there is no test clock and the pause is longer than the sampling interval'
            when
                clock_s is null
                and (
                    abs(first_current_a - previous_current_a)
                    > {{ var('part_state_tolerance') }} * abs(previous_current_a)
                    or abs(first_voltage_v - previous_voltage_v)
                    > {{ var('part_state_tolerance') }} * abs(previous_voltage_v)
                )
                then 'there is no test clock, and current or voltage change between the files'
        end as apart_because

    from with_flow

),

with_joins as (

    select
        with_siblings.*,
        judged.apart_because,
        judged.part_key is not null and judged.apart_because is null as continues_previous

    from with_siblings
    left join judged on with_siblings.part_key = judged.part_key

),

numbered as (

    select
        *,
        sum(case when continues_previous then 0 else 1 end) over (
            partition by equipment_id, may_join
            order by started_at, part_key
            rows between unbounded preceding and current row
        ) as test_number

    from with_joins

),

final as (

    select
        part_key,
        equipment_id,
        part_test_id,
        first_value(part_key) over in_test as test_key,
        first_value(part_test_id) over in_test as test_id,
        row_number() over in_test as part_number,
        count(*) over (partition by equipment_id, may_join, test_number) as joined_parts,
        apart_because,
        started_at,
        ended_at,
        readings

    from numbered
    window in_test as (
        partition by equipment_id, may_join, test_number
        order by started_at, part_key
    )

)

select * from final
