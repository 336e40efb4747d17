{{ config(
    materialized=by_part('incremental'),
    meta={'part': 'day', 'inputs': ['battery_ts']},
    incremental_strategy=replacement(),
    unique_key='reading_id',
    on_schema_change='append_new_columns',
    partition_by=partitions('recorded_at'),
    cluster_by=clusters(['equipment_id', 'test_key'])
) }}
{%- set days = changed_days(ref('battery_ts')) if adds_to_itself() else none %}

with

readings as (

    select * from {{ ref('battery_ts') }}
    where
        {{ is_usable_reading() }}
        and {{ is_on_days('recorded_at', days) }}
        and {{ is_in_batch() }}

),

repeated as (

    select
        reading_id,
        count(*) as deliveries,
        cast(sum({{ content_hash() }}) as bigint) as content_hash

    from readings
    group by reading_id
    having count(*) > 1

),

-- One row per reading_id, whichever upload or delivery attempt brought it; the order makes the
-- winner the same on every run. The id holds the time: all copies are of one day. Only what came
-- more than once is sorted.
deduplicated as (

    select
        readings.*,
        1 as deliveries,
        {{ content_hash() }} as content_hash

    from readings
    left join repeated on readings.reading_id = repeated.reading_id
    where repeated.reading_id is null

    union all

    select
        readings.*,
        repeated.deliveries,
        repeated.content_hash

    from readings
    inner join repeated on readings.reading_id = repeated.reading_id
    qualify row_number() over (
        partition by readings.reading_id
        order by
            readings.source_file asc nulls last,
            readings.ingested_at asc nulls last,
            array_to_string(readings.quality_flags, ',') asc nulls last,
            readings.time_delta_s asc nulls last,
            readings.source_row asc nulls last
    ) = 1

),

-- The stream rejects impossible values with a rule's name; what reaches this point without it
-- (another writer, an older version) must not poison sums and means.
bounded as (

    select
        reading_id,
        equipment_id,
        equipment_type,
        test_id,
        {{ test_key() }} as test_key,
        recorded_at,
        streamed_at,
        ingested_at,
        source_file,
        source_row,
        record_index,
        case when test_time_s >= 0 then {{ finite('test_time_s') }} end as test_time_s,
        case when step_time_s >= 0 then {{ finite('step_time_s') }} end as step_time_s,
        case when cycle_index >= 0 then cycle_index end as cycle_index,
        case when step_index >= 0 then step_index end as step_index,
        voltage_v,
        current_a,
        case when charge_capacity_ah >= 0 then {{ finite('charge_capacity_ah') }} end
            as charge_capacity_ah,
        case when discharge_capacity_ah >= 0 then {{ finite('discharge_capacity_ah') }} end
            as discharge_capacity_ah,
        case when charge_energy_wh >= 0 then {{ finite('charge_energy_wh') }} end
            as charge_energy_wh,
        case when discharge_energy_wh >= 0 then {{ finite('discharge_energy_wh') }} end
            as discharge_energy_wh,
        -- zero means not measured yet
        case when internal_resistance_ohm > 0 then {{ finite('internal_resistance_ohm') }} end
            as internal_resistance_ohm,
        {{ finite('temperature_c') }} as temperature_c,
        {{ finite('ambient_temperature_c') }} as ambient_temperature_c,
        case when frequency_hz >= 0 then {{ finite('frequency_hz') }} end as frequency_hz,
        time_delta_s as stream_time_delta_s,
        {{ string_array('quality_flags') }} as quality_flags,
        extra,
        deliveries,
        content_hash

    from deduplicated

),

cleaned as (

    select
        *,
        {{ array_size('quality_flags') }} > 0 as is_flagged,
        {{ array_has('quality_flags', "'late'") }} as is_late

    from bounded

)

select * from cleaned {{ in_order_of('equipment_id') }}
