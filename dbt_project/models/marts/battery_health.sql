{{ config(cluster_by=clusters(['equipment_id'])) }}

with

cycles as (

    select * from {{ ref('battery_cycles') }}

),

equipment as (

    select * from {{ ref('dim_equipment') }}

),

series as (

    select * from {{ ref('int_capacity_series') }}

),

corrections as (

    select * from {{ ref('int_capacity_correction') }}

),

ends_of_life as (

    select * from {{ ref('int_end_of_life') }}

),

-- What holds for the whole cell.
cells as (

    select
        equipment_id,
        max(initial_capacity_ah) as initial_capacity_ah

    from series
    group by equipment_id

),

ends as (

    select
        equipment_id,
        min(case when threshold = '80_nominal' then end_of_life_cycle end) as eol_80_nominal_cycle,
        min(case when threshold = '70_nominal' then end_of_life_cycle end) as eol_70_nominal_cycle,
        min(case when threshold = '80_initial' then end_of_life_cycle end) as eol_80_initial_cycle

    from ends_of_life
    group by equipment_id

),

joined as (

    select
        cycles.cycle_key,
        cycles.equipment_id,
        cycles.cycle_number,
        cycles.started_at,
        cycles.ended_at,
        cycles.kind,
        cycles.depth,
        cycles.is_complete,
        cycles.is_valid,
        cycles.discharge_ah,
        cycles.capacity_ah,
        cycles.discharge_rate_a,
        cycles.temperature_mean_c,
        coalesce(series.is_reference, false) as is_reference,
        coalesce(
            series.reference_reason,
            cycles.invalid_reason,
            case when series.cycle_key is null then 'the current of its discharge is not known' end
        ) as reference_reason,
        series.reference_rate_a,
        series.reference_temperature_c,
        series.capacity_median_ah as discharge_median_ah,
        series.median_cycles,
        coalesce(equipment.nominal_capacity_ah, cells.initial_capacity_ah) as nominal_capacity_ah,
        case
            when equipment.nominal_capacity_ah is not null then 'profile'
            when cells.initial_capacity_ah is not null then 'initial'
        end as nominal_capacity_source,
        cells.initial_capacity_ah,
        corrections.temperature_coefficient_ah_per_k,
        corrections.rate_coefficient_ah,
        ends.eol_80_nominal_cycle,
        ends.eol_70_nominal_cycle,
        ends.eol_80_initial_cycle,
        sum(cycles.charge_ah + cycles.discharge_ah) over life as throughput_ah,
        sum(cycles.charge_wh + cycles.discharge_wh) over life as throughput_wh,
        sum(cycles.throughput_error_ah) over life as throughput_error_ah

    from cycles
    left join equipment on cycles.equipment_id = equipment.equipment_id
    left join cells on cycles.equipment_id = cells.equipment_id
    left join corrections on cycles.equipment_id = corrections.equipment_id
    left join ends on cycles.equipment_id = ends.equipment_id
    left join series on cycles.cycle_key = series.cycle_key
    window life as (
        partition by cycles.equipment_id
        order by cycles.cycle_number
        rows between unbounded preceding and current row
    )

),

final as (

    select
        cycle_key,
        equipment_id,
        cycle_number,
        started_at,
        ended_at,
        kind,
        depth,
        is_complete,
        is_valid,
        discharge_ah,
        capacity_ah,
        discharge_rate_a,
        temperature_mean_c,
        is_reference,
        case when not is_reference then reference_reason end as reference_reason,
        reference_rate_a,
        reference_temperature_c,
        discharge_median_ah,
        median_cycles,
        temperature_coefficient_ah_per_k,
        rate_coefficient_ah,
        case
            when not is_valid then null
            when temperature_coefficient_ah_per_k is null and rate_coefficient_ah is null then null
            else
                capacity_ah
                - coalesce(temperature_coefficient_ah_per_k, 0.0)
                * coalesce(temperature_mean_c - reference_temperature_c, 0.0)
                - coalesce(rate_coefficient_ah, 0.0) * ln(discharge_rate_a / reference_rate_a)
        end as capacity_at_reference_ah,
        nominal_capacity_ah,
        nominal_capacity_source,
        initial_capacity_ah,
        discharge_median_ah / nullif(nominal_capacity_ah, 0.0) as soh_nominal,
        discharge_median_ah / nullif(initial_capacity_ah, 0.0) as soh_initial,
        initial_capacity_ah - discharge_median_ah as capacity_fade_ah,
        1.0 - discharge_median_ah / nullif(initial_capacity_ah, 0.0) as capacity_fade_fraction,
        throughput_ah,
        throughput_wh,
        throughput_ah / nullif(2.0 * nominal_capacity_ah, 0.0) as equivalent_full_cycles,
        throughput_error_ah / nullif(2.0 * nominal_capacity_ah, 0.0)
            as equivalent_full_cycles_error,
        coalesce(cycle_number >= eol_80_nominal_cycle, false) as is_end_of_life,
        coalesce(cycle_number >= eol_70_nominal_cycle, false) as is_below_70_nominal,
        coalesce(cycle_number >= eol_80_initial_cycle, false) as is_below_80_initial

    from joined

)

select * from final
