with

steps as (

    select * from {{ ref('battery_steps') }}

),

cycles as (

    select * from {{ ref('battery_cycles') }}

),

equipment as (

    select * from {{ ref('dim_equipment') }}

),

with_moved as (

    select
        *,
        case when direction = 'charge' then charge_ah else discharge_ah end as moved_ah,
        max(greatest(charge_ah, discharge_ah)) over (partition by equipment_id) as largest_step_ah

    from steps
    where direction <> 'rest'

),

with_capacity as (

    select
        with_moved.*,
        cycles.cycle_key,
        cycles.cycle_number,
        coalesce(equipment.nominal_capacity_ah, with_moved.largest_step_ah) as capacity_ah,
        sum(with_moved.moved_ah) over (
            partition by cycles.cycle_key, with_moved.direction
        ) as cycle_moved_ah

    from with_moved
    inner join cycles
        on
            with_moved.test_key = cycles.test_key
            and with_moved.test_cycle = cycles.test_cycle
            and with_moved.cycle_restarts = cycles.cycle_restarts
    left join equipment on with_moved.equipment_id = equipment.equipment_id

),

final as (

    select
        step_key,
        cycle_key,
        equipment_id,
        cycle_number,
        test_key,
        step_run,
        direction,
        step_type,
        moved_ah,
        capacity_ah,
        -- an aged cell's features are as much narrower as its capacity is smaller
        least(capacity_ah, cycle_moved_ah) as scale_ah,
        greatest(abs(current_min_a), abs(current_max_a)) as current_max_abs_a,
        moved_ah >= {{ var('ica_stage_min_share') }} * capacity_ah as is_long_enough

    from with_capacity
    -- a step that only holds the voltage has no such curve; one without a number of its own may
    -- hold all stages of a charge
    where step_index is null or step_type not in ('cv_charge', 'cv_discharge')

)

select * from final
