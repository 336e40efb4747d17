with

readings as (

    select * from {{ ref('battery_cleaned') }}

),

parts as (

    select * from {{ ref('int_test_parts') }}

),

profiles as (

    select * from {{ ref('stg_equipment_profiles') }}

),

equipment as (

    select
        readings.equipment_id,
        -- an equipment whose type was corrected counts under its latest type
        max_by(readings.equipment_type, readings.recorded_at) as equipment_type,
        min(readings.recorded_at) as first_seen_at,
        max(readings.recorded_at) as last_seen_at,
        count(*) as readings,
        count(distinct coalesce(parts.test_key, readings.test_key)) as tests

    from readings
    left join parts on readings.test_key = parts.part_key
    group by readings.equipment_id

),

matched as (

    select
        equipment.equipment_id,
        profiles.*

    from equipment
    inner join profiles
        on
            equipment.equipment_type = profiles.equipment_type
            and {{ matches_fully('equipment.equipment_id', 'profiles.equipment_pattern') }}
    qualify row_number() over (
        partition by equipment.equipment_id
        order by profiles.priority asc nulls last, profiles.profile asc
    ) = 1

),

final as (

    select
        equipment.equipment_id,
        equipment.equipment_type,
        matched.profile,
        matched.chemistry,
        matched.nominal_capacity_ah,
        matched.rated_current_a,
        matched.v_min_v,
        matched.v_max_v,
        matched.cutoff_current_a,
        matched.nominal_frequency_hz,
        matched.temperature_min_c,
        matched.temperature_max_c,
        matched.gap_s,
        matched.gap_cv_s,
        equipment.first_seen_at,
        equipment.last_seen_at,
        equipment.readings,
        equipment.tests

    from equipment
    left join matched on equipment.equipment_id = matched.equipment_id

)

select * from final
