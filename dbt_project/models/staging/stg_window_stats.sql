with

source as (

    select * from {{ source('pipeline', 'window_stats') }}
    {{ in_every_partition('window_start') }}

),

renamed as (

    select
        stats_id,
        equipment_id,
        equipment_type,
        window_start as window_start_at,
        window_end as window_end_at,
        readings,
        voltage_min_v,
        voltage_mean_v,
        voltage_max_v,
        current_min_a,
        current_mean_a,
        current_max_a,
        temperature_min_c,
        temperature_mean_c,
        temperature_max_c,
        charge_ah,
        discharge_ah,
        charge_wh,
        discharge_wh,
        flagged_readings,
        quality_flags

    from source

),

-- at-least-once delivery: a window's row may be there twice on BigQuery
deduplicated as (

    select *
    from renamed
    qualify row_number() over (
        partition by stats_id
        order by window_end_at asc nulls last, readings desc nulls last
    ) = 1

)

select * from deduplicated
