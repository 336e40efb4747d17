with

source as (

    select * from {{ source('pipeline', 'equipment_profiles') }}

),

renamed as (

    select
        profile,
        priority,
        equipment_pattern,
        equipment_type,
        chemistry,
        nominal_capacity_ah,
        rated_current_a,
        v_min_v,
        v_max_v,
        cutoff_current_a,
        nominal_frequency_hz,
        temperature_min_c,
        temperature_max_c,
        gap_s,
        gap_cv_s

    from source

),

-- every launch of the job writes its profiles; equal ones count once
deduplicated as (

    select *
    from renamed
    qualify row_number() over (
        partition by profile
        order by priority asc nulls last, equipment_pattern asc nulls last
    ) = 1

)

select * from deduplicated
