{{ config(cluster_by=clusters(['equipment_id'])) }}

with

readings as (

    select * from {{ ref('battery_features') }}
    where equipment_type = 'battery_cell' and is_impedance is not true

),

steps as (

    select * from {{ ref('battery_steps') }}

),

resistances as (

    select * from {{ ref('int_cycle_resistance') }}

),

equipment as (

    select * from {{ ref('dim_equipment') }}

),

tests as (

    select * from {{ ref('dim_test') }}

),

swings as (

    select * from {{ ref('battery_swings') }}

),

limits as (

    select * from {{ ref('int_cell_limits') }}

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

-- The step that discharged most and the last step that held the voltage stand for the cycle.
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

-- The swings that come to their end in the cycle; its largest discharge stands for it.
cycle_swings as (

    select
        test_key,
        test_cycle,
        cycle_restarts,
        count(*) as swings,
        count(case when direction = 'discharge' then 1 end) as discharges,
        count(case when direction = 'charge' then 1 end) as charges,
        count(case when direction = 'discharge' and is_full then 1 end) as full_discharges,
        count(case when direction = 'charge' and ends_at_limit then 1 end) as finished_charges,
        count(case when direction = 'charge' and ends_at_limit and follows_limit then 1 end)
            as whole_charges,
        max_by(net_ah, case when direction = 'discharge' and is_full then swing_number end)
            as full_discharge_ah,
        max_by(net_wh, case when direction = 'discharge' and is_full then swing_number end)
            as full_discharge_wh,
        max_by(is_held, case when direction = 'discharge' and is_full then swing_number end)
            as is_held,
        max_by(
            start_current_a, case when direction = 'discharge' and is_full then swing_number end
        ) as held_to_current_a,
        max(case when direction = 'discharge' then depth end) as discharge_depth,
        max(depth) as swing_depth,
        max_by(mean_current_a, case when direction = 'discharge' then net_ah end)
            as discharge_rate_a,
        max_by(rate_c, case when direction = 'discharge' then net_ah end) as discharge_rate_c,
        max_by(mean_current_a, case when direction = 'charge' then net_ah end) as charge_rate_a,
        max_by(rate_c, case when direction = 'charge' then net_ah end) as charge_rate_c,
        max_by(rests, case when direction = 'discharge' then net_ah end) as discharge_rests,
        max_by(load_changes, case when direction = 'discharge' then net_ah end)
            as discharge_load_changes,
        max_by(
            rest_time_s / nullif(duration_s, 0.0), case when direction = 'discharge' then net_ah end
        ) as discharge_rest_share,
        max_by(reverse_ah, case when direction = 'discharge' then net_ah end)
            as discharge_reverse_ah,
        max_by(
            partial_reason, case when direction = 'discharge' and not is_full then net_ah end
        ) as discharge_partial_reason,
        max_by(
            partial_reason, case when direction = 'charge' and not ends_at_limit then net_ah end
        ) as charge_partial_reason,
        -- a discharge that starts below the upper limit, if it goes down to the lower one, is what
        -- a charge left unfinished
        max(
            case when direction = 'discharge' and ends_at_limit and not is_full then 1 else 0 end
        ) = 1 as is_emptied_only,
        max(gaps) as swing_gaps

    from swings
    group by test_key, test_cycle, cycle_restarts

),

joined as (

    select
        cycle_readings.*,
        coalesce(cycle_swings.swings, 0) as swings,
        coalesce(cycle_swings.discharges, 0) as discharges,
        coalesce(cycle_swings.charges, 0) as charges,
        coalesce(cycle_swings.full_discharges, 0) as full_discharges,
        coalesce(cycle_swings.finished_charges, 0) as finished_charges,
        coalesce(cycle_swings.whole_charges, 0) as whole_charges,
        cycle_swings.full_discharge_ah,
        cycle_swings.full_discharge_wh,
        cycle_swings.is_held,
        cycle_swings.held_to_current_a,
        coalesce(cycle_swings.discharge_depth, cycle_swings.swing_depth) as depth,
        cycle_swings.discharge_rate_a,
        cycle_swings.discharge_rate_c,
        cycle_swings.charge_rate_a,
        cycle_swings.charge_rate_c,
        cycle_swings.discharge_rests,
        cycle_swings.discharge_load_changes,
        cycle_swings.discharge_rest_share,
        cycle_swings.discharge_reverse_ah,
        cycle_swings.discharge_partial_reason,
        cycle_swings.charge_partial_reason,
        coalesce(cycle_swings.is_emptied_only, false) as is_emptied_only,
        limits.upper_limit_v,
        limits.lower_limit_v,
        limits.cutoff_current_a,
        limits.limits_reason,
        cycle_steps.steps,
        cycle_steps.discharge_end_voltage_v,
        cycle_steps.charge_end_voltage_v,
        cycle_steps.cv_end_current_a,
        resistances.dc_resistance_10s_ohm,
        resistances.dc_resistance_30s_ohm,
        resistances.dc_resistance_30s_ocv_ohm,
        case
            when resistances.test_key is null then 'step: the cycle has no discharge'
            else resistances.dc_resistance_reason
        end as dc_resistance_reason,
        resistances.dc_resistance_mid_charge_ohm,
        resistances.dc_resistance_mid_charge_s,
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
    left join cycle_swings
        on
            cycle_readings.test_key = cycle_swings.test_key
            and cycle_readings.test_cycle = cycle_swings.test_cycle
            and cycle_readings.cycle_restarts = cycle_swings.cycle_restarts
    left join limits on cycle_readings.equipment_id = limits.equipment_id
    left join resistances
        on
            cycle_readings.test_key = resistances.test_key
            and cycle_readings.test_cycle = resistances.test_cycle
            and cycle_readings.cycle_restarts = resistances.cycle_restarts
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

judged as (

    select
        *,
        -- not judged where a limit is not known
        case
            when upper_limit_v is null or lower_limit_v is null then null
            else full_discharges > 0 and (charges = 0 or finished_charges > 0)
        end as is_complete,
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
        ) as direction_disagrees,
        -- what the discharge itself looks like
        discharge_rests >= {{ var('pulse_test_rests') }}
        and discharge_rest_share >= {{ var('pulse_test_rest_share') }} as is_pulsed,
        discharge_load_changes >= {{ var('drive_load_changes') }} as is_driven

    from numbered

),

with_shape as (

    select
        *,
        coalesce(
            is_complete and charges = whole_charges and charges = full_discharges, false
        ) as is_round_trip,
        case
            when discharges > 1 then 'several'
            when is_pulsed then 'pulse'
            when is_complete is null then 'unknown'
            when not is_complete
                then
                    case
                        when discharges = 0 and charges = 0 then 'unknown'
                        when discharges = 0 then 'discharge_partial'
                        when is_emptied_only or finished_charges = 0 then 'charge_partial'
                        else 'discharge_partial'
                    end
            when is_driven then 'drive'
            else 'full'
        end as shape

    from judged

),

-- What the cell usually does: a full cycle at another rate, or among partial ones, is a check-up; a
-- slow one at the start of its life that never recurs is its formation.
cell_habits as (

    select
        equipment_id,
        {{ collect('discharge_rate_a') }} as rates,
        count(case when shape in ('full', 'drive') then 1 end) as full_cycles,
        count(case when shape in ('charge_partial', 'discharge_partial', 'several') then 1 end)
            as other_cycles

    from with_shape
    group by equipment_id

),

cell_rates as (

    select
        equipment_id,
        full_cycles,
        other_cycles,
        {{ array_median('rates') }} as usual_rate_a

    from cell_habits

),

with_habits as (

    select
        with_shape.*,
        cell_rates.usual_rate_a,
        cell_rates.full_cycles < cell_rates.other_cycles as is_rarely_full,
        with_shape.discharge_rate_a
        <= cell_rates.usual_rate_a / {{ var('slow_rate_ratio') }} as is_slow

    from with_shape
    left join cell_rates on with_shape.equipment_id = cell_rates.equipment_id

),

with_usual as (

    select
        *,
        min(case when shape in ('full', 'drive') and not is_slow then cycle_number end)
            over cell as first_usual_cycle,
        max(case when shape = 'full' and is_slow then cycle_number end)
            over cell as last_slow_cycle

    from with_habits
    window cell as (partition by equipment_id)

),

with_kind as (

    select
        *,
        case
            when shape <> 'full' then shape
            when
                is_slow
                and cycle_number <= {{ var('formation_cycles') }}
                and last_slow_cycle < first_usual_cycle
                then 'formation'
            when is_slow or is_rarely_full then 'check_up'
            else 'full'
        end as kind

    from with_usual

),

with_reason as (

    select
        *,
        case kind
            when 'several'
                then
                    cast(discharges as string)
                    || ' discharges under one cycle index; see battery_swings'
            when 'pulse'
                then
                    'the discharge is interrupted by ' || cast(discharge_rests - 1 as string)
                    || ' rests'
            when 'drive'
                then
                    'the current changes ' || cast(discharge_load_changes as string)
                    || ' times in the discharge; ' || {{ shown('discharge_reverse_ah', 3) }}
                    || ' Ah flowed back'
            when 'check_up'
                then
                    case
                        when is_slow
                            then
                                'a full cycle at ' || {{ shown('discharge_rate_a', 3) }}
                                || ' A, usual are ' || {{ shown('usual_rate_a', 3) }} || ' A'
                        else 'a full cycle among partial ones'
                    end
            when 'formation'
                then
                    'one of the first cycles, at ' || {{ shown('discharge_rate_a', 3) }}
                    || ' A; usual are ' || {{ shown('usual_rate_a', 3) }} || ' A'
            when 'unknown'
                then
                    case
                        when swings = 0 then 'no swing of charge ends in this cycle'
                        else limits_reason
                    end
            when 'full' then 'from the upper to the lower limit'
            else
                coalesce(
                    case
                        when discharges = 0 then 'no discharge ends in this cycle'
                        when kind = 'charge_partial'
                            then coalesce(charge_partial_reason, discharge_partial_reason)
                        else discharge_partial_reason
                    end,
                    charge_partial_reason,
                    'the discharge did not start from the upper limit'
                )
        end as kind_reason,
        -- The first of these that is the case keeps the cycle from measuring the capacity.
        case
            when kind = 'several' then 'several discharges under one cycle index'
            when kind = 'pulse' then 'a pulse test: rests interrupt the discharge'
            when kind = 'unknown' then 'not judged: no swing of charge, or limits not known'
            when not is_complete then 'not a full cycle'
            when not coalesce(is_held, true)
                then
                    'the charge ended at ' || {{ shown('held_to_current_a', 3) }}
                    || ' A, the cut-off is ' || {{ shown('cutoff_current_a', 3) }} || ' A'
            when charge_disagrees then 'the charge is in doubt, see disagreements'
            when direction_disagrees then 'the direction of the current is in doubt'
            -- without counters the charge is only as good as the clock and its unit
            when
                (is_clock_off or has_test_unit_doubt)
                and not (has_charge_counter and has_discharge_counter)
                then 'no counters, and the clock or a unit is in doubt'
        end as invalid_reason

    from with_kind

),

final as (

    select
        equipment_id || '|' || cast(cycle_number as string) as cycle_key,
        equipment_id,
        cycle_number,
        test_key,
        test_id,
        test_cycle,
        cycle_restarts,
        is_cycle_derived,
        started_at,
        ended_at,
        duration_s,
        readings,
        steps,
        charge_ah,
        discharge_ah,
        charge_wh,
        discharge_wh,
        -- what was put in and what was taken out compare only from limit to limit and back
        case when is_round_trip then discharge_ah / nullif(charge_ah, 0.0) end
            as coulombic_efficiency,
        case when is_round_trip then discharge_wh / nullif(charge_wh, 0.0) end
            as energy_efficiency,
        charge_wh / nullif(charge_ah, 0.0) as charge_mean_voltage_v,
        discharge_wh / nullif(discharge_ah, 0.0) as discharge_mean_voltage_v,
        v_min_v,
        v_max_v,
        charge_end_voltage_v,
        discharge_end_voltage_v,
        cv_end_current_a,
        dc_resistance_10s_ohm,
        dc_resistance_30s_ohm,
        dc_resistance_30s_ocv_ohm,
        dc_resistance_reason,
        dc_resistance_mid_charge_ohm,
        dc_resistance_mid_charge_s,
        internal_resistance_ohm,
        internal_resistance_max_ohm,
        temperature_mean_c,
        temperature_min_c,
        temperature_max_c,
        ambient_temperature_mean_c,
        charge_method,
        charge_integrated_ah,
        discharge_integrated_ah,
        case when has_charge_counter then charge_ah / nullif(charge_integrated_ah, 0.0) end
            as charge_agreement,
        case when has_discharge_counter then discharge_ah / nullif(discharge_integrated_ah, 0.0) end
            as discharge_agreement,
        summary_charge_ah,
        summary_discharge_ah,
        {{ known_values([
            "case when charge_disagrees then 'charge_disagrees' end",
            "case when clock_disagrees then 'clock_disagrees' end",
            "case when direction_disagrees then 'direction_disagrees' end",
        ]) }} as disagreements,
        gaps,
        flagged_readings,
        swings,
        kind,
        kind_reason,
        depth,
        charge_rate_a,
        charge_rate_c,
        discharge_rate_a,
        discharge_rate_c,
        upper_limit_v,
        lower_limit_v,
        case when is_complete then full_discharge_ah end as capacity_ah,
        case when is_complete then full_discharge_wh end as capacity_wh,
        is_complete,
        invalid_reason is null as is_valid,
        invalid_reason

    from with_reason

)

select * from final
