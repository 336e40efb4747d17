with

cells as (

    select * from {{ ref('dim_equipment') }}
    where equipment_type = 'battery_cell'

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

lives as (

    select
        equipment_id,
        count(*) as cycles,
        count(case when is_complete then 1 end) as complete_cycles,
        count(case when is_valid then 1 end) as valid_cycles,
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
        lives.first_cycle_at,
        lives.last_cycle_at,
        lives.capacity_ah,
        lives.soh_nominal,
        lives.soh_initial,
        lives.throughput_ah,
        lives.throughput_wh,
        lives.equivalent_full_cycles,
        case
            when lives.eol_80_nominal_cycle is not null then 'end_of_life'
            when lives.capacity_ah is null then 'unknown'
            else 'in_use'
        end as status,
        lives.eol_80_nominal_cycle,
        lives.eol_80_nominal_at,
        lives.eol_80_nominal_equivalent_full_cycles,
        lives.eol_70_nominal_cycle,
        lives.eol_70_nominal_at,
        lives.eol_70_nominal_equivalent_full_cycles,
        lives.eol_80_initial_cycle,
        lives.eol_80_initial_at,
        lives.eol_80_initial_equivalent_full_cycles,
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
        remaining_life.remaining_cycles_high

    from cells
    inner join lives on cells.equipment_id = lives.equipment_id
    left join knees on cells.equipment_id = knees.equipment_id
    left join remaining_life on cells.equipment_id = remaining_life.equipment_id

)

select * from final
