{{ config(cluster_by=clusters(['equipment_id'])) }}

with

cycles as (

    select * from {{ ref('battery_cycles') }}

),

equipment as (

    select * from {{ ref('dim_equipment') }}

),

valid_cycles as (

    select
        cycle_key,
        equipment_id,
        cycle_number,
        discharge_ah,
        row_number() over (partition by equipment_id order by cycle_number) as valid_number

    from cycles
    where is_valid

),

-- Initial capacity: median of the valid ones among cycles 2 to 6 (the first is a formation or
-- partial cycle too often); a cell whose record starts later takes its first five valid cycles.
initial_values as (

    select
        equipment_id,
        {{ collect('case when cycle_number between 2 and 6 then discharge_ah end') }} as early,
        {{ collect('case when valid_number <= 5 then discharge_ah end') }} as first_valid

    from valid_cycles
    group by equipment_id

),

initial_capacity as (

    select
        equipment_id,
        coalesce({{ array_median('early') }}, {{ array_median('first_valid') }})
            as initial_capacity_ah

    from initial_values

),

-- Five valid cycles, centred: one low cycle cannot move the median, and a step in capacity shows at
-- the cycle where it happened. The last two cycles see a shorter window until more arrive.
windows as (

    select
        cycle_key,
        {{ collect_frame('discharge_ah') }} over (
            partition by equipment_id
            order by cycle_number
            rows between 2 preceding and 2 following
        ) as discharge_window

    from valid_cycles

),

smoothed as (

    select
        cycle_key,
        {{ array_median('discharge_window') }} as discharge_median_ah,
        {{ array_size('discharge_window') }} as median_cycles

    from windows

),

joined as (

    select
        cycles.cycle_key,
        cycles.equipment_id,
        cycles.cycle_number,
        cycles.started_at,
        cycles.ended_at,
        cycles.is_complete,
        cycles.is_valid,
        cycles.discharge_ah,
        smoothed.discharge_median_ah,
        smoothed.median_cycles,
        coalesce(equipment.nominal_capacity_ah, initial_capacity.initial_capacity_ah)
            as nominal_capacity_ah,
        case
            when equipment.nominal_capacity_ah is not null then 'profile'
            when initial_capacity.initial_capacity_ah is not null then 'initial'
        end as nominal_capacity_source,
        initial_capacity.initial_capacity_ah,
        sum(cycles.charge_ah + cycles.discharge_ah) over life as throughput_ah,
        sum(cycles.charge_wh + cycles.discharge_wh) over life as throughput_wh

    from cycles
    left join equipment on cycles.equipment_id = equipment.equipment_id
    left join initial_capacity on cycles.equipment_id = initial_capacity.equipment_id
    left join smoothed on cycles.cycle_key = smoothed.cycle_key
    window life as (
        partition by cycles.equipment_id
        order by cycles.cycle_number
        rows between unbounded preceding and current row
    )

),

with_limits as (

    select
        *,
        -- only a full window may declare the end of life
        case when median_cycles = 5 then discharge_median_ah end as decisive_median_ah

    from joined

),

final as (

    select
        cycle_key,
        equipment_id,
        cycle_number,
        started_at,
        ended_at,
        is_complete,
        is_valid,
        is_valid as is_reference,
        discharge_ah,
        discharge_ah as capacity_ah,
        discharge_median_ah,
        median_cycles,
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
        -- below once is below for good: end of life does not come undone by a good cycle
        coalesce(
            max(case when decisive_median_ah < 0.8 * nominal_capacity_ah then 1 else 0 end)
                over life
            = 1, false
        ) as is_end_of_life,
        coalesce(
            max(case when decisive_median_ah < 0.7 * nominal_capacity_ah then 1 else 0 end)
                over life
            = 1, false
        ) as is_below_70_nominal,
        coalesce(
            max(case when decisive_median_ah < 0.8 * initial_capacity_ah then 1 else 0 end)
                over life
            = 1, false
        ) as is_below_80_initial

    from with_limits
    window life as (
        partition by equipment_id
        order by cycle_number
        rows between unbounded preceding and current row
    )

)

select * from final
