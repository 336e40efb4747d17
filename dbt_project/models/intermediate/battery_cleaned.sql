{{ config(materialized='table') }}

with

readings as (

    select * from {{ ref('battery_ts') }}

),

-- One row per reading_id, whichever upload or delivery attempt brought it; the order makes the
-- winner the same on every run.
deduplicated as (

    select *
    from readings
    qualify row_number() over (
        partition by reading_id
        order by source_file asc nulls last, ingested_at asc nulls last
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
        -- the test's key: test_id alone need not be unique across equipment, and may be missing
        equipment_id || '|' || coalesce(test_id, '') as test_key,
        recorded_at,
        streamed_at,
        ingested_at,
        source_file,
        record_index,
        case when test_time_s >= 0 then {{ finite('test_time_s') }} end as test_time_s,
        case when step_time_s >= 0 then {{ finite('step_time_s') }} end as step_time_s,
        case when cycle_index >= 0 then cycle_index end as cycle_index,
        case when step_index >= 0 then step_index end as step_index,
        {{ finite('voltage_v') }} as voltage_v,
        {{ finite('current_a') }} as current_a,
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
        extra

    from deduplicated
    where
        reading_id is not null
        and equipment_id is not null
        and recorded_at is not null

),

cleaned as (

    select
        *,
        {{ array_size('quality_flags') }} > 0 as is_flagged,
        {{ array_has('quality_flags', "'late'") }} as is_late

    from bounded
    where voltage_v is not null and current_a is not null

)

select * from cleaned
