with

source as (

    select *
    from ({{ all_or_none_of(source('pipeline', 'cycles_live'), {
        'version_id': 'string', 'cycle_id': 'string', 'version': 'bigint', 'equipment_id': 'string',
        'test_id': 'string', 'cycle_index': 'bigint', 'cycle_restarts': 'bigint',
        'cycle_number': 'bigint', 'is_cycle_derived': 'boolean', 'is_ended': 'boolean',
        'is_whole': 'boolean', 'started_at': timestamp_type(), 'ended_at': timestamp_type(),
        'duration_s': float_type(), 'readings': 'bigint', 'charge_ah': float_type(),
        'discharge_ah': float_type(), 'charge_wh': float_type(), 'discharge_wh': float_type(),
        'charge_method': 'string', 'is_full': 'boolean', 'coulombic_efficiency': float_type(),
        'energy_efficiency': float_type(), 'v_min_v': float_type(), 'v_max_v': float_type(),
        'charge_end_voltage_v': float_type(), 'discharge_end_voltage_v': float_type(),
        'cv_end_current_a': float_type(), 'dc_resistance_10s_ohm': float_type(),
        'dc_resistance_30s_ohm': float_type(), 'internal_resistance_ohm': float_type(),
        'temperature_mean_c': float_type(), 'temperature_min_c': float_type(),
        'temperature_max_c': float_type(), 'ambient_temperature_mean_c': float_type(),
        'charge_peak_v': float_type(), 'charge_peak_ah_per_v': float_type(),
        'discharge_peak_v': float_type(), 'discharge_peak_ah_per_v': float_type(),
        'voltage_time_s': 'string', 'gaps': 'bigint', 'flagged_readings': 'bigint',
        'throughput_ah': float_type(),
    }) }}) as every_row
    {{ in_every_partition('started_at') }}

),

renamed as (

    select
        version_id,
        cycle_id,
        version,
        equipment_id,
        test_id,
        cycle_index,
        cycle_restarts,
        cycle_number,
        is_cycle_derived,
        is_ended,
        is_whole,
        started_at,
        ended_at,
        {{ finite('duration_s') }} as duration_s,
        readings,
        {{ finite('charge_ah') }} as charge_ah,
        {{ finite('discharge_ah') }} as discharge_ah,
        {{ finite('charge_wh') }} as charge_wh,
        {{ finite('discharge_wh') }} as discharge_wh,
        charge_method,
        is_full,
        {{ finite('coulombic_efficiency') }} as coulombic_efficiency,
        {{ finite('energy_efficiency') }} as energy_efficiency,
        {{ finite('v_min_v') }} as v_min_v,
        {{ finite('v_max_v') }} as v_max_v,
        {{ finite('charge_end_voltage_v') }} as charge_end_voltage_v,
        {{ finite('discharge_end_voltage_v') }} as discharge_end_voltage_v,
        {{ finite('cv_end_current_a') }} as cv_end_current_a,
        {{ finite('dc_resistance_10s_ohm') }} as dc_resistance_10s_ohm,
        {{ finite('dc_resistance_30s_ohm') }} as dc_resistance_30s_ohm,
        {{ finite('internal_resistance_ohm') }} as internal_resistance_ohm,
        {{ finite('temperature_mean_c') }} as temperature_mean_c,
        {{ finite('temperature_min_c') }} as temperature_min_c,
        {{ finite('temperature_max_c') }} as temperature_max_c,
        {{ finite('ambient_temperature_mean_c') }} as ambient_temperature_mean_c,
        {{ finite('charge_peak_v') }} as charge_peak_v,
        {{ finite('charge_peak_ah_per_v') }} as charge_peak_ah_per_v,
        {{ finite('discharge_peak_v') }} as discharge_peak_v,
        {{ finite('discharge_peak_ah_per_v') }} as discharge_peak_ah_per_v,
        voltage_time_s,
        gaps,
        flagged_readings,
        {{ finite('throughput_ah') }} as throughput_ah

    from source

),

-- Late readings give a cycle a new version; at-least-once delivery may bring one twice.
deduplicated as (

    select *
    from renamed
    where cycle_id is not null
    qualify row_number() over (
        partition by cycle_id
        order by version desc nulls last, ended_at desc nulls last, version_id asc
    ) = 1

)

select * from deduplicated
