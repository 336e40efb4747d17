with

cells as (

    select * from {{ ref('dim_equipment') }}
    where equipment_type = 'battery_cell'

),

cycles as (

    select * from {{ ref('battery_cycles') }}

),

health as (

    select * from {{ ref('battery_health') }}

),

knees as (

    select * from {{ ref('int_capacity_knee') }}

),

remaining_life as (

    select * from {{ ref('int_remaining_life') }}

),

predictions as (

    select
        *,
        -- as the cell is today
        coalesce(cycles_since, 0) as spent_since,
        model || ' ' || substr(model_version, 1, 12) as predicted_by

    from {{ ref('battery_predictions') }}
    where is_chosen and not is_outlived and not out_of_domain

),

ends_of_life as (

    select * from {{ ref('int_end_of_life') }}

),

limits as (

    select * from {{ ref('int_cell_limits') }}

),

held as (

    select
        equipment_id,
        min(case when threshold = '80_nominal' then held_equivalent_full_cycles end)
            as eol_80_nominal_held_equivalent_full_cycles,
        min(case when threshold = '70_nominal' then held_equivalent_full_cycles end)
            as eol_70_nominal_held_equivalent_full_cycles,
        min(case when threshold = '80_initial' then held_equivalent_full_cycles end)
            as eol_80_initial_held_equivalent_full_cycles

    from ends_of_life
    group by equipment_id

),

-- What marks a cell as one whose figures need a look; it keeps no other cell's from being built.
cycle_doubts as (

    select
        equipment_id,
        max(case when {{ array_has('disagreements', "'charge_disagrees'") }} then 1 else 0 end) = 1
            as charge_disagrees,
        max(case when {{ array_has('disagreements', "'clock_disagrees'") }} then 1 else 0 end) = 1
            as clock_disagrees,
        max(
            case when {{ array_has('disagreements', "'direction_disagrees'") }} then 1 else 0 end
        ) = 1 as direction_disagrees,
        max(case when is_sampled_coarsely then 1 else 0 end) = 1 as is_sampled_coarsely,
        max(
            case
                when is_valid and coulombic_efficiency not between 0.8 and 1.2 then 1 else 0
            end
        ) = 1 as is_efficiency_odd

    from cycles
    group by equipment_id

),

lives as (

    select
        equipment_id,
        count(*) as cycles,
        count(case when is_complete then 1 end) as complete_cycles,
        count(case when is_valid then 1 end) as valid_cycles,
        count(case when is_reference then 1 end) as reference_cycles,
        max(reference_rate_a) as reference_rate_a,
        max(reference_temperature_c) as reference_temperature_c,
        max(case when soh_nominal > 1.5 or soh_initial > 1.5 then 1 else 0 end) = 1
            as is_capacity_odd,
        min(started_at) as first_cycle_at,
        max(ended_at) as last_cycle_at,
        max(nominal_capacity_ah) as nominal_capacity_ah,
        max(nominal_capacity_source) as nominal_capacity_source,
        max(initial_capacity_ah) as initial_capacity_ah,
        max_by(discharge_median_ah, case when discharge_median_ah is not null then cycle_number end)
            as capacity_ah,
        max_by(soh_nominal, case when soh_nominal is not null then cycle_number end)
            as soh_nominal,
        max_by(soh_initial, case when soh_initial is not null then cycle_number end)
            as soh_initial,
        max(throughput_ah) as throughput_ah,
        max(throughput_wh) as throughput_wh,
        max(equivalent_full_cycles) as equivalent_full_cycles,
        max(equivalent_full_cycles_error) as equivalent_full_cycles_error,
        -- the flags stay set, so the first cycle that has one is the crossing
        min(case when is_end_of_life then cycle_number end) as eol_80_nominal_cycle,
        min(case when is_below_70_nominal then cycle_number end) as eol_70_nominal_cycle,
        min(case when is_below_80_initial then cycle_number end) as eol_80_initial_cycle,
        min(case when is_end_of_life then started_at end) as eol_80_nominal_at,
        min(case when is_below_70_nominal then started_at end) as eol_70_nominal_at,
        min(case when is_below_80_initial then started_at end) as eol_80_initial_at,
        min(case when is_end_of_life then equivalent_full_cycles end)
            as eol_80_nominal_equivalent_full_cycles,
        min(case when is_below_70_nominal then equivalent_full_cycles end)
            as eol_70_nominal_equivalent_full_cycles,
        min(case when is_below_80_initial then equivalent_full_cycles end)
            as eol_80_initial_equivalent_full_cycles

    from health
    group by equipment_id

),

final as (

    select
        cells.equipment_id,
        cells.profile,
        cells.chemistry,
        lives.nominal_capacity_ah,
        lives.nominal_capacity_source,
        lives.initial_capacity_ah,
        lives.cycles,
        lives.complete_cycles,
        lives.valid_cycles,
        lives.reference_cycles,
        lives.reference_rate_a,
        lives.reference_temperature_c,
        limits.upper_limit_v,
        limits.lower_limit_v,
        limits.limits_reason,
        lives.first_cycle_at,
        lives.last_cycle_at,
        lives.capacity_ah,
        lives.soh_nominal,
        lives.soh_initial,
        lives.throughput_ah,
        lives.throughput_wh,
        lives.equivalent_full_cycles,
        lives.equivalent_full_cycles_error,
        case
            when lives.eol_80_nominal_cycle is not null then 'end_of_life'
            when lives.capacity_ah is null then 'unknown'
            else 'in_use'
        end as status,
        lives.eol_80_nominal_cycle,
        lives.eol_80_nominal_at,
        lives.eol_80_nominal_equivalent_full_cycles,
        held.eol_80_nominal_held_equivalent_full_cycles,
        lives.eol_70_nominal_cycle,
        lives.eol_70_nominal_at,
        lives.eol_70_nominal_equivalent_full_cycles,
        held.eol_70_nominal_held_equivalent_full_cycles,
        lives.eol_80_initial_cycle,
        lives.eol_80_initial_at,
        lives.eol_80_initial_equivalent_full_cycles,
        held.eol_80_initial_held_equivalent_full_cycles,
        knees.knee_cycle,
        knees.knee_at,
        knees.knee_capacity_ah,
        knees.knee_low_cycle,
        knees.knee_high_cycle,
        knees.knee_onset_cycle,
        knees.knee_onset_at,
        knees.knee_onset_capacity_ah,
        knees.knee_onset_low_cycle,
        knees.knee_onset_high_cycle,
        knees.fade_before_ah_per_cycle,
        knees.fade_between_ah_per_cycle,
        knees.fade_after_ah_per_cycle,
        knees.knee_f_statistic,
        knees.knee_reason,
        remaining_life.remaining_cycles,
        remaining_life.remaining_cycles_low,
        remaining_life.remaining_cycles_high,
        remaining_life.remaining_reason,
        {% for name in ['remaining_cycles', 'remaining_cycles_low', 'remaining_cycles_high'] -%}
            case
                when predictions.{{ name }} > predictions.spent_since
                    then predictions.{{ name }} - predictions.spent_since
                when predictions.{{ name }} is not null then 0.0
            end as predicted_{{ name }},
        {% endfor -%}
        case
            when
                coalesce(predictions.remaining_cycles, predictions.remaining_cycles_low) is not null
                then predictions.predicted_by
        end as predicted_by,
        {{ known_values([
            "case when lives.valid_cycles = 0 then 'no_valid_cycle' end",
            "case when limits.upper_limit_v is null or limits.lower_limit_v is null "
            ~ "then 'limits_not_known' end",
            "case when lives.is_capacity_odd then 'capacity_out_of_range' end",
            "case when cycle_doubts.is_efficiency_odd then 'efficiency_out_of_range' end",
            "case when cycle_doubts.is_sampled_coarsely then 'sampling_too_coarse' end",
            "case when knees.is_knee_in_doubt then 'knee_place_uncertain' end",
            "case when cycle_doubts.charge_disagrees then 'charge_disagrees' end",
            "case when cycle_doubts.clock_disagrees then 'clock_disagrees' end",
            "case when cycle_doubts.direction_disagrees then 'direction_disagrees' end",
        ]) }} as doubts

    from cells
    inner join lives on cells.equipment_id = lives.equipment_id
    left join cycle_doubts on cells.equipment_id = cycle_doubts.equipment_id
    left join limits on cells.equipment_id = limits.equipment_id
    left join held on cells.equipment_id = held.equipment_id
    left join knees on cells.equipment_id = knees.equipment_id
    left join remaining_life on cells.equipment_id = remaining_life.equipment_id
    left join predictions on cells.equipment_id = predictions.equipment_id

)

select * from final
