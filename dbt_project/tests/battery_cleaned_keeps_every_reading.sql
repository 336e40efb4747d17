-- Cleaning removes duplicates and rows without what every reading must have, and nothing else: a
-- replayed load must not shrink. A warning: one cell's rows keep no model of another from being
-- built.
{{ config(severity='warn') }}
with

expected as (

    select
        reading_id,
        {{ short_hash('reading_id') }} as reading_hash
    from {{ ref('battery_ts') }}
    where
        {{ is_unchecked('battery_cleaned') }}
        and equipment_id is not null
        and recorded_at is not null
        and {{ finite('voltage_v') }} is not null
        and {{ finite('current_a') }} is not null

),

-- By hashes of 64 bits, for texts take many times the memory. What is missing has the hash of what
-- is there once in a million million times.
kept as (

    select {{ short_hash('reading_id') }} as reading_hash
    from {{ ref('battery_cleaned') }}
    where {{ is_unchecked('battery_cleaned') }}

)

select distinct expected.reading_id
from expected
left join kept on expected.reading_hash = kept.reading_hash
where expected.reading_id is not null and kept.reading_hash is null
