{{ config(
    materialized=by_part('table'),
    meta={'part': 'equipment', 'inputs': ['battery_features']},
    partition_by=partitions('day', 'date', 'month'),
    cluster_by=clusters(['equipment_id'])
) }}

with

readings as (

    select
        *,
        {{ utc_date('recorded_at') }} as day

    from {{ ref('battery_features') }}
    where {{ is_in_batch() }}

),

final as (

    select
        equipment_id,
        equipment_type,
        day,
        {{ equipment_bucket_measures() }}

    from readings
    group by equipment_id, equipment_type, day

)

select * from final
