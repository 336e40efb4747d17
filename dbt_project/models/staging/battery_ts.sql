{%- set there = column_names(source('pipeline', 'readings')) -%}
with

source as (

    select * from {{ source('pipeline', 'readings') }}
    {{ in_every_partition('recorded_at') }}

),

-- A correction stands beside what it corrects where the job only appends.
current_version as (

    {{ current_version_of('source', 'content_id' in there) }}

),

renamed as (

    select
        -- keys
        reading_id,
        equipment_id,
        equipment_type,
        test_id,

        -- times
        recorded_at,
        streamed_at,
        ingested_at,

        -- origin
        source_file,
        {{ column_or_null('source_row', 'bigint', there) }},
        record_index,

        -- position in the test
        test_time_s,
        step_time_s,
        cycle_index,
        step_index,

        -- measurements
        voltage_v,
        current_a,
        charge_capacity_ah,
        discharge_capacity_ah,
        charge_energy_wh,
        discharge_energy_wh,
        internal_resistance_ohm,
        temperature_c,
        ambient_temperature_c,
        frequency_hz,

        -- derived by the stream
        power_watt,
        time_delta_s,
        quality_flags,
        extra,
        {{ column_or_null('content_id', 'bigint', there) }}{{ legacy_reading_columns() }}

    from current_version

)

select * from renamed
