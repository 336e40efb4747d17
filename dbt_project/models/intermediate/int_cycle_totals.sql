-- Materialized: battery_cycles reads it more than once.
{{ config(materialized='table', cluster_by=clusters(['equipment_id'])) }}

with

readings as (

    select * from {{ ref('battery_features') }}
    where equipment_type = 'battery_cell' and is_impedance is not true

),

steps as (

    select * from {{ ref('battery_steps') }}

),

equipment as (

    select * from {{ ref('dim_equipment') }}

),

tests as (

    select * from {{ ref('dim_test') }}

),

summaries as (

    select * from {{ ref('stg_cycle_summaries') }}

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
        -- The second witness of the charge, and how far it can be relied on. Rounded: the last
        -- digits of a sum depend on the order of addition, which differs between builds.
        round(sum(dq_charge_integrated_ah), 12) as charge_integrated_ah,
        round(sum(dq_discharge_integrated_ah), 12) as discharge_integrated_ah,
        sum(dq_charge_bound_ah) as charge_bound_ah,
        sum(dq_discharge_bound_ah) as discharge_bound_ah,
        -- how far the integral is off where the errors of its intervals are independent
        sqrt(sum(dq_discharge_bound_ah * dq_discharge_bound_ah)) as discharge_scatter_ah,
        sum(coalesce(dq_gap_ah, 0.0)) as gap_ah,
        max(case when has_charge_counter then 1 else 0 end) = 1 as has_charge_counter,
        max(case when has_discharge_counter then 1 else 0 end) = 1 as has_discharge_counter,
        max(
            case when {{ array_has('quality_flags', "'clock_disagrees'") }} then 1 else 0 end
        ) = 1 as has_clock_flag,
        sum(
            case
                when {{ array_has('quality_flags', "'direction_disagrees'") }}
                    then dq_charge_ah + dq_discharge_ah
                else 0.0
            end
        ) as doubtful_direction_ah,
        -- what the test had counted before its first reading, which belongs to no interval
        coalesce(max(case when reading_seq = 1 then charge_capacity_ah end), 0.0)
            as charge_before_ah,
        coalesce(max(case when reading_seq = 1 then discharge_capacity_ah end), 0.0)
            as discharge_before_ah,
        min(voltage_v) as v_min_v,
        max(voltage_v) as v_max_v,
        {{ time_mean('internal_resistance_ohm') }} as internal_resistance_ohm,
        max(internal_resistance_ohm) as internal_resistance_max_ohm,
        {{ time_mean('temperature_c') }} as temperature_mean_c,
        min(temperature_c) as temperature_min_c,
        max(temperature_c) as temperature_max_c,
        {{ time_mean('ambient_temperature_c') }} as ambient_temperature_mean_c,
        min(charge_method) as charge_method,
        max(case when is_cycle_derived then 1 else 0 end) = 1 as is_cycle_derived,
        count(case when is_gap then 1 end) as gaps,
        count(case when is_flagged then 1 end) as flagged_readings

    from readings
    group by equipment_id, test_key, test_cycle, cycle_restarts

),

-- The cycler's own summary of a cycle stands in one of the cycle's files, or is the one that was
-- made when the cycle ended; one without a time is a cycle's where no other cycle has its number.
cycle_files as (

    select distinct
        test_key,
        test_cycle,
        cycle_restarts,
        source_file

    from readings
    where source_file is not null

),

possible_summaries as (

    select
        cycle_readings.test_key,
        cycle_readings.test_cycle,
        cycle_readings.cycle_restarts,
        cycle_readings.duration_s,
        summaries.summary_id,
        summaries.charge_ah,
        summaries.discharge_ah,
        summaries.recorded_at,
        case when cycle_files.source_file is null then 1 else 0 end as is_elsewhere,
        abs(
            {{ seconds_between('cycle_readings.ended_at', 'summaries.recorded_at') }}
        ) as distance_s,
        count(*) over (partition by summaries.summary_id) as possible_cycles

    from cycle_readings
    inner join summaries
        on
            cycle_readings.equipment_id = summaries.equipment_id
            and cycle_readings.test_cycle = summaries.cycle_index
    left join cycle_files
        on
            cycle_readings.test_key = cycle_files.test_key
            and cycle_readings.test_cycle = cycle_files.test_cycle
            and cycle_readings.cycle_restarts = cycle_files.cycle_restarts
            and summaries.source_file = cycle_files.source_file
    where not cycle_readings.is_cycle_derived

),

cycle_summaries as (

    select
        test_key,
        test_cycle,
        cycle_restarts,
        charge_ah,
        discharge_ah

    from possible_summaries
    where
        is_elsewhere = 0
        or distance_s <= greatest(duration_s, 3600.0)
        or (recorded_at is null and possible_cycles = 1)
    qualify
        row_number() over (
            partition by test_key, test_cycle, cycle_restarts
            order by is_elsewhere asc, distance_s asc nulls last, summary_id asc
        ) = 1
        and row_number() over (
            partition by summary_id
            order by
                is_elsewhere asc, distance_s asc nulls last, test_key asc, cycle_restarts asc
        ) = 1

),

-- The last step that held the voltage stands for the end of the charge.
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
        ) as cv_end_current_a

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
        equipment.nominal_capacity_ah,
        cycle_summaries.charge_ah as summary_charge_ah,
        cycle_summaries.discharge_ah as summary_discharge_ah,
        coalesce({{ array_has('tests.disagreements', "'clock_disagrees'") }}, false)
            as has_test_clock_doubt,
        coalesce({{ array_has('tests.disagreements', "'unit_guessed'") }}, false)
            as has_test_unit_doubt,
        coalesce({{ array_has('tests.disagreements', "'direction_disagrees'") }}, false)
            as has_test_direction_doubt,
        coalesce({{ array_has('tests.disagreements', "'charge_disagrees'") }}, false)
            as has_test_charge_doubt,
        {{ clocks_differ('tests.wall_duration_s', 'tests.clock_duration_s') }} as is_clock_off,
        tests.has_step_index,
        -- differences below this are noise: a share of the cell's capacity
        {{ var('charge_noise_share') }} * coalesce(
            equipment.nominal_capacity_ah,
            max(greatest(cycle_readings.charge_ah, cycle_readings.discharge_ah)) over (
                partition by cycle_readings.equipment_id
            )
        ) as noise_ah

    from cycle_readings
    inner join cycle_steps
        on
            cycle_readings.test_key = cycle_steps.test_key
            and cycle_readings.test_cycle = cycle_steps.test_cycle
            and cycle_readings.cycle_restarts = cycle_steps.cycle_restarts
    left join equipment on cycle_readings.equipment_id = equipment.equipment_id
    left join tests on cycle_readings.test_key = tests.test_key
    left join cycle_summaries
        on
            cycle_readings.test_key = cycle_summaries.test_key
            and cycle_readings.test_cycle = cycle_summaries.test_cycle
            and cycle_readings.cycle_restarts = cycle_summaries.cycle_restarts

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

compared as (

    select
        *,
        -- The integral is a witness where no reading is missing, within the bounds that its samples
        -- leave; the cycler's own summary always is.
        (
            gaps = 0
            and has_charge_counter
            and {{ estimates_differ(
                'charge_ah', 'charge_integrated_ah', var('charge_tolerance'),
                'greatest(noise_ah, charge_bound_ah)'
            ) }}
        )
        or (
            gaps = 0
            and has_discharge_counter
            and {{ estimates_differ(
                'discharge_ah', 'discharge_integrated_ah', var('charge_tolerance'),
                'greatest(noise_ah, discharge_bound_ah)'
            ) }}
        )
        or has_test_charge_doubt
        -- without counters nobody knows what flowed in a gap
        or coalesce(
            not (has_charge_counter and has_discharge_counter)
            and gap_ah > {{ var('charge_tolerance') }} * greatest(charge_ah, discharge_ah)
            and gap_ah > noise_ah,
            false
        )
        or {{ estimates_differ(
            'charge_ah', 'summary_charge_ah', var('summary_tolerance'),
            'noise_ah + charge_before_ah'
        ) }}
        or {{ estimates_differ(
            'discharge_ah', 'summary_discharge_ah', var('summary_tolerance'),
            'noise_ah + discharge_before_ah'
        ) }} as charge_disagrees,
        has_clock_flag or has_test_clock_doubt as clock_disagrees,
        has_test_direction_doubt or coalesce(
            doubtful_direction_ah > {{ var('direction_tolerance') }} * (charge_ah + discharge_ah),
            false
        ) as direction_disagrees

    from numbered

),

final as (

    select
        *,
        case when has_charge_counter then charge_ah / nullif(charge_integrated_ah, 0.0) end
            as charge_agreement,
        case when has_discharge_counter then discharge_ah / nullif(discharge_integrated_ah, 0.0) end
            as discharge_agreement,
        -- What the integral leaves open of the charge that flowed in both directions; counters
        -- leave nothing. Rounded like the integrals.
        round(
            case when has_charge_counter then 0.0 else charge_bound_ah end
            + case when has_discharge_counter then 0.0 else discharge_bound_ah end
            + case when has_charge_counter and has_discharge_counter then 0.0 else gap_ah end,
            12
        ) as throughput_error_ah,
        {{ known_values([
            "case when charge_disagrees then 'charge_disagrees' end",
            "case when clock_disagrees then 'clock_disagrees' end",
            "case when direction_disagrees then 'direction_disagrees' end",
        ]) }} as disagreements

    from compared

)

select * from final
