{{ config(
    materialized=by_part('table'),
    meta={
        'part': 'equipment',
        'inputs': ['battery_features', 'int_test_parts', 'stg_test_dialects']
    }
) }}

with

readings as (

    select * from {{ ref('battery_features') }}
    where equipment_type = 'battery_cell' and {{ is_in_batch() }}

),

parts as (

    select * from {{ ref('int_test_parts') }}

),

dialects as (

    select
        {{ all_but('dialects', ['test_key']) }},
        coalesce(parts.test_key, dialects.test_key) as test_key

    from {{ ref('stg_test_dialects') }} as dialects
    left join parts on dialects.test_key = parts.part_key

),

-- The files that were joined, and why the first of them does not continue the file before it.
joined as (

    select
        test_key,
        max(joined_parts) as joined_parts,
        max(case when part_number = 1 then apart_because end) as apart_because

    from parts
    group by test_key

),

tests as (

    select
        test_key,
        min(equipment_id) as equipment_id,
        min(test_id) as test_id,
        min(recorded_at) as started_at,
        max(recorded_at) as ended_at,
        min(source_file) as source_file,
        count(distinct source_file) as source_files,
        count(*) as readings,
        -- as floats: a cycle number of any size passes
        count(
            distinct 1000000 * cast(cycle_restarts as {{ float_type() }}) + test_cycle
        ) as cycles,
        coalesce(sum(time_delta_s), 0.0) as duration_s,
        max(charge_method) as charge_method,
        max(case when is_cycle_derived then 1 else 0 end) = 1 as is_cycle_derived,
        count(test_time_s) > 0 as has_test_time,
        count(step_index) > 0 as has_step_index,
        count(internal_resistance_ohm) > 0 as has_internal_resistance,
        count(temperature_c) > 0 as has_temperature,
        count(case when is_gap then 1 end) as gaps

    from readings
    group by test_key

),

-- The clocks: what the wall clock and what the test clock says of the same intervals --------------

intervals as (

    select
        test_key,
        {{ seconds_between('lag(recorded_at) over in_test', 'recorded_at') }} as wall_s,
        test_time_s - lag(test_time_s) over in_test as clock_s

    from readings
    window in_test as (partition by test_key order by reading_seq)

),

with_usual as (

    select
        *,
        {{ median('wall_s') }} over (partition by test_key) as usual_s

    from intervals

),

clocks as (

    select
        test_key,
        round(sum(wall_s), 6) as wall_duration_s,
        round(sum(clock_s), 6) as clock_duration_s

    from with_usual
    where
        -- not where the test clock restarted (another part of the test)
        clock_s >= 0
        -- nor where it stood while the test was paused
        and not (
            clock_s < 0.5 * wall_s
            and wall_s > 2 * usual_s
            and wall_s > {{ var('clock_pause_s') }}
        )
    group by test_key

),

-- How the test's files were read -----------------------------------------------------------------

-- Of the parts of a test the one that arrived last stands for all.
latest as (

    select *
    from dialects
    qualify row_number() over (
        partition by test_key
        order by ingested_at desc nulls last, source_file desc nulls last, dialect_id asc
    ) = 1

),

doubts as (

    select
        dialects.test_key,
        disagreement

    from dialects
    cross join {{ unnest_as('dialects.disagreements', 'disagreement') }}

    union distinct

    select
        test_key,
        'clock_disagrees' as disagreement

    from clocks
    where {{ clocks_differ('wall_duration_s', 'clock_duration_s') }}

),

disagreements as (

    select
        test_key,
        array_agg(disagreement order by disagreement asc) as disagreements

    from doubts
    group by test_key

),

final as (

    select
        tests.test_key,
        tests.equipment_id,
        tests.test_id,
        tests.started_at,
        tests.ended_at,
        tests.source_file,
        tests.source_files,
        coalesce(joined.joined_parts, 1) as joined_parts,
        joined.apart_because,
        tests.readings,
        tests.cycles,
        tests.duration_s,
        tests.charge_method,
        tests.is_cycle_derived,
        tests.has_test_time,
        tests.has_step_index,
        tests.has_internal_resistance,
        tests.has_temperature,
        tests.gaps,
        latest.dialect,
        latest.current_sign,
        latest.clock,
        latest.event_time,
        latest.date_order,
        latest.counter_grain,
        latest.sampling_interval_s,
        latest.columns_used,
        latest.witnesses,
        clocks.wall_duration_s,
        clocks.clock_duration_s,
        clocks.clock_duration_s / nullif(clocks.wall_duration_s, 0.0) as clock_ratio,
        {{ string_array('disagreements.disagreements') }} as disagreements

    from tests
    left join latest on tests.test_key = latest.test_key
    left join joined on tests.test_key = joined.test_key
    left join clocks on tests.test_key = clocks.test_key
    left join disagreements on tests.test_key = disagreements.test_key

)

select * from final
