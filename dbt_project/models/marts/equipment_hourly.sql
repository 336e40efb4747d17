{{ config(
    materialized=by_part('table'),
    meta={'part': 'equipment', 'inputs': ['battery_features']},
    partition_by=partitions('hour_at'),
    cluster_by=clusters(['equipment_id'])
) }}

with

readings as (

    select
        *,
        {{ utc_hour('recorded_at') }} as hour_at

    from {{ ref('battery_features') }}
    where {{ is_in_batch() }}

),

final as (

    select
        equipment_id,
        equipment_type,
        hour_at,
        {{ equipment_bucket_measures() }}

    from readings
    group by equipment_id, equipment_type, hour_at

)

select * from final
