with

source as (

    {{ all_or_none_of(source('pipeline', 'cycle_summaries'), {
        'summary_id': 'string', 'equipment_id': 'string', 'source_file': 'string',
        'cycle_index': 'bigint', 'recorded_at': timestamp_type(), 'charge_ah': float_type(),
        'discharge_ah': float_type(), 'charge_wh': float_type(), 'discharge_wh': float_type(),
        'ingested_at': timestamp_type(),
    }) }}

),

renamed as (

    select
        summary_id,
        equipment_id,
        source_file,
        cycle_index,
        recorded_at,
        {{ finite('charge_ah') }} as charge_ah,
        {{ finite('discharge_ah') }} as discharge_ah,
        {{ finite('charge_wh') }} as charge_wh,
        {{ finite('discharge_wh') }} as discharge_wh,
        ingested_at

    from source

),

-- at-least-once delivery: a summary may be there twice on BigQuery
deduplicated as (

    select *
    from renamed
    where summary_id is not null
    qualify row_number() over (
        partition by summary_id
        order by ingested_at asc nulls last, source_file asc nulls last
    ) = 1

)

select * from deduplicated
