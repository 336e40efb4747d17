with

readings as (

    select * from {{ ref('battery_features') }}
    where equipment_type = 'battery_cell'

),

final as (

    select
        test_key,
        equipment_id,
        test_id,
        min(recorded_at) as started_at,
        max(recorded_at) as ended_at,
        min(source_file) as source_file,
        count(distinct source_file) as source_files,
        count(*) as readings,
        count(distinct cycle_restarts * 1000000 + test_cycle) as cycles,
        coalesce(sum(time_delta_s), 0.0) as duration_s,
        max(charge_method) as charge_method,
        max(case when is_cycle_derived then 1 else 0 end) = 1 as is_cycle_derived,
        count(test_time_s) > 0 as has_test_time,
        count(step_index) > 0 as has_step_index,
        count(internal_resistance_ohm) > 0 as has_internal_resistance,
        count(temperature_c) > 0 as has_temperature,
        count(case when is_gap then 1 end) as gaps

    from readings
    group by test_key, equipment_id, test_id

)

select * from final
