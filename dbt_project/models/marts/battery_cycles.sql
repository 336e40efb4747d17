{{ config(cluster_by=clusters(['equipment_id'])) }}

with

totals as (

    select * from {{ ref('int_cycle_totals') }}

),

swings as (

    select * from {{ ref('battery_swings') }}

),

limits as (

    select * from {{ ref('int_cell_limits') }}

),

resistances as (

    select * from {{ ref('int_cycle_resistance') }}

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
        max_by(readings, case when direction = 'discharge' then net_ah end) as discharge_readings,
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
        ) = 1 as is_emptied_only

    from swings
    group by test_key, test_cycle, cycle_restarts

),

joined as (

    select
        totals.*,
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
        cycle_swings.discharge_readings,
        cycle_swings.discharge_rest_share,
        cycle_swings.discharge_reverse_ah,
        cycle_swings.discharge_partial_reason,
        cycle_swings.charge_partial_reason,
        coalesce(cycle_swings.is_emptied_only, false) as is_emptied_only,
        limits.upper_limit_v,
        limits.lower_limit_v,
        limits.cutoff_current_a,
        limits.limits_reason,
        resistances.dc_resistance_10s_ohm,
        resistances.dc_resistance_30s_ohm,
        resistances.dc_resistance_30s_ocv_ohm,
        case
            when resistances.test_key is null then 'step: the cycle has no discharge'
            else resistances.dc_resistance_reason
        end as dc_resistance_reason,
        resistances.dc_resistance_mid_charge_ohm,
        resistances.dc_resistance_mid_charge_s

    from totals
    left join cycle_swings
        on
            totals.test_key = cycle_swings.test_key
            and totals.test_cycle = cycle_swings.test_cycle
            and totals.cycle_restarts = cycle_swings.cycle_restarts
    left join limits on totals.equipment_id = limits.equipment_id
    left join resistances
        on
            totals.test_key = resistances.test_key
            and totals.test_cycle = resistances.test_cycle
            and totals.cycle_restarts = resistances.cycle_restarts

),

judged as (

    select
        *,
        -- not judged where a limit is not known
        case
            when upper_limit_v is null or lower_limit_v is null then null
            else full_discharges > 0 and (charges = 0 or finished_charges > 0)
        end as is_complete,
        -- what the discharge itself looks like
        discharge_rests >= {{ var('pulse_test_rests') }}
        and discharge_rest_share >= {{ var('pulse_test_rest_share') }} as is_pulsed,
        discharge_load_changes >= {{ var('drive_load_changes') }} as is_driven

    from joined

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
                        when is_emptied_only or (charges > 0 and finished_charges = 0)
                            then 'charge_partial'
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

-- Without counters the readings have to carry the integral of the discharge: an error anywhere
-- within its bounds scatters by them over the root of three. A drive profile repeats its error with
-- every change of current: it must be known better, and without step numbers the bounds add up.
with_sampling as (

    select
        *,
        coalesce(
            not has_discharge_counter
            and (
                discharge_scatter_ah / sqrt(3.0)
                > {{ var('charge_tolerance') }} * full_discharge_ah
                or (
                    kind = 'drive'
                    and case
                        when has_step_index then discharge_scatter_ah else discharge_bound_ah
                    end > {{ var('drive_charge_tolerance') }} * full_discharge_ah
                )
            ),
            false
        ) as is_sampled_coarsely

    from with_kind

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
            when is_sampled_coarsely
                then 'no counters, and the current changes faster than it is logged'
        end as invalid_reason

    from with_sampling

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
        -- what is lost as heat shows in a partial cycle too, if it comes back to where it began
        case
            when
                is_round_trip
                or abs(charge_ah - discharge_ah) <= {{ var('return_tolerance') }} * charge_ah
                then discharge_wh / nullif(charge_wh, 0.0)
        end as energy_efficiency,
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
        charge_agreement,
        discharge_agreement,
        summary_charge_ah,
        summary_discharge_ah,
        throughput_error_ah,
        disagreements,
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
        invalid_reason,
        is_sampled_coarsely

    from with_reason

)

select * from final
