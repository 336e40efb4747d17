-- Cleaning removes duplicates and rows without what every reading must have, and nothing else: a
-- replayed load must not shrink. A warning: one cell's rows keep no model of another from being
-- built.
{{ config(severity='warn') }}
with

expected as (

    select distinct reading_id
    from {{ ref('battery_ts') }}
    where
        equipment_id is not null
        and recorded_at is not null
        and {{ finite('voltage_v') }} is not null
        and {{ finite('current_a') }} is not null

)

select expected.reading_id
from expected
left join {{ ref('battery_cleaned') }} as cleaned on expected.reading_id = cleaned.reading_id
where expected.reading_id is not null and cleaned.reading_id is null
