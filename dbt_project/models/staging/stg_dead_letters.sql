with

source as (

    select * from {{ source('pipeline', 'dead_letters') }}
    {{ in_every_partition('ingested_at') }}

),

renamed as (

    select
        dead_letter_id,
        step,
        error_type as rule,
        error_message,
        field,
        source as source_uri,
        source_file,
        position as source_position,
        attributes,
        equipment_id,
        ingested_at

    from source

),

-- at-least-once delivery: a dead letter may be there twice on BigQuery
deduplicated as (

    select *
    from renamed
    qualify row_number() over (
        partition by dead_letter_id
        order by ingested_at asc nulls last, source_position asc nulls last
    ) = 1

)

select * from deduplicated
