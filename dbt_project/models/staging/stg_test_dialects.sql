with

source as (

    {{ all_or_none_of(source('pipeline', 'test_dialects'), {
        'dialect_id': 'string', 'equipment_id': 'string', 'test_id': 'string',
        'source_file': 'string', 'dialect': 'string', 'columns_used': 'string',
        'columns_left': 'string', 'current_sign': 'string', 'clock': 'string',
        'event_time': 'string', 'date_order': 'string', 'counter_grain': 'string',
        'sampling_interval_s': float_type(), 'witnesses': 'string',
        'disagreements': strings_type(), 'ingested_at': timestamp_type(),
    }) }}

),

renamed as (

    select
        dialect_id,
        equipment_id,
        test_id,
        {{ test_key() }} as test_key,
        source_file,
        dialect,
        columns_used,
        columns_left,
        current_sign,
        clock,
        event_time,
        date_order,
        counter_grain,
        sampling_interval_s,
        witnesses,
        {{ string_array('disagreements') }} as disagreements,
        ingested_at

    from source

),

-- A file that was read again, perhaps by a later version, was decided again: the latest decision
-- counts. At-least-once delivery: a row may be there twice on BigQuery.
latest as (

    select *
    from renamed
    qualify row_number() over (
        partition by test_key, coalesce(source_file, '')
        order by ingested_at desc nulls last, dialect_id asc nulls last
    ) = 1

)

select * from latest
