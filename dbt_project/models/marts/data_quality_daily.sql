{{ config(
    partition_by=partitions('ingested_on', 'date', 'month'),
    cluster_by=clusters(['source_name'])
) }}
{%- set flags = [
    'gap', 'stuck', 'counter_reset', 'counter_jump', 'late', 'voltage_out_of_range',
    'current_out_of_range', 'temperature_out_of_range', 'frequency_out_of_range',
    'event_time_assumed', 'counter_dip', 'clock_disagrees', 'direction_disagrees', 'impedance', 'binary_id'
] -%}
with

-- before deduplication, so that what was delivered twice can be counted
raw_readings as (

    select * from {{ ref('battery_ts') }}

),

cleaned as (

    select * from {{ ref('battery_cleaned') }}

),

dead_letters as (

    select * from {{ ref('stg_dead_letters') }}

),

delivered as (

    select
        coalesce(source_file, '(stream)') as source_name,
        {{ utc_date('ingested_at') }} as ingested_on,
        count(*) as delivered_readings

    from raw_readings
    where ingested_at is not null
    group by source_name, ingested_on

),

measured as (

    select
        *,
        coalesce(source_file, '(stream)') as source_name,
        {{ utc_date('ingested_at') }} as ingested_on,
        {{ seconds_between('recorded_at', 'ingested_at') }} as latency_s,
        {{ seconds_between('streamed_at', 'ingested_at') }} as transport_latency_s

    from cleaned
    where ingested_at is not null

),

accepted as (

    select
        source_name,
        ingested_on,
        count(*) as readings,
        count(distinct equipment_id) as equipments,
        min(recorded_at) as first_recorded_at,
        max(recorded_at) as last_recorded_at,
        count(test_time_s) / count(*) as test_time_share,
        count(cycle_index) / count(*) as cycle_index_share,
        count(charge_capacity_ah) / count(*) as charge_counter_share,
        count(temperature_c) / count(*) as temperature_share,
        min(latency_s) as latency_min_s,
        {{ quantile('latency_s', 0.5) }} as latency_p50_s,
        {{ quantile('latency_s', 0.95) }} as latency_p95_s,
        max(latency_s) as latency_max_s,
        {{ quantile('transport_latency_s', 0.5) }} as transport_latency_p50_s,
        {{ quantile('transport_latency_s', 0.95) }} as transport_latency_p95_s,
        {% for flag in flags -%}
            count(case when {{ array_has('quality_flags', "'" ~ flag ~ "'") }} then 1 end)
                as {{ flag }}_readings,
        {% endfor -%}
        count(case when is_flagged then 1 end) as flagged_readings

    from measured
    group by source_name, ingested_on

),

rejects_by_rule as (

    select
        coalesce(source_file, '(stream)') as source_name,
        {{ utc_date('ingested_at') }} as ingested_on,
        rule,
        count(*) as rejects,
        count(case when step = 'read' then 1 end) as read_rejects,
        count(case when step = 'decode' then 1 end) as decode_rejects,
        count(case when step = 'validate' then 1 end) as validate_rejects

    from dead_letters
    where ingested_at is not null
    group by source_name, ingested_on, rule

),

rejected as (

    select
        source_name,
        ingested_on,
        sum(rejects) as rejects,
        sum(read_rejects) as read_rejects,
        sum(decode_rejects) as decode_rejects,
        sum(validate_rejects) as validate_rejects,
        string_agg(
            coalesce(rule, '(none)') || '=' || cast(rejects as string), ', '
            order by rejects desc, rule asc
        ) as rejects_by_rule

    from rejects_by_rule
    group by source_name, ingested_on

),

source_days as (

    select
        source_name,
        ingested_on
    from delivered

    union distinct

    select
        source_name,
        ingested_on
    from rejected

),

final as (

    select
        source_days.source_name
        || '|' || cast(source_days.ingested_on as string) as source_day_key,
        source_days.source_name,
        source_days.ingested_on,
        coalesce(delivered.delivered_readings, 0) as delivered_readings,
        coalesce(accepted.readings, 0) as readings,
        coalesce(delivered.delivered_readings, 0) - coalesce(accepted.readings, 0)
            as removed_readings,
        cast(coalesce(rejected.rejects, 0) as bigint) as rejects,
        cast(coalesce(rejected.read_rejects, 0) as bigint) as read_rejects,
        cast(coalesce(rejected.decode_rejects, 0) as bigint) as decode_rejects,
        cast(coalesce(rejected.validate_rejects, 0) as bigint) as validate_rejects,
        rejected.rejects_by_rule,
        coalesce(accepted.readings, 0)
        / nullif(coalesce(accepted.readings, 0) + coalesce(rejected.rejects, 0), 0)
            as accepted_share,
        coalesce(accepted.equipments, 0) as equipments,
        accepted.first_recorded_at,
        accepted.last_recorded_at,
        accepted.test_time_share,
        accepted.cycle_index_share,
        accepted.charge_counter_share,
        accepted.temperature_share,
        accepted.latency_min_s,
        accepted.latency_p50_s,
        accepted.latency_p95_s,
        accepted.latency_max_s,
        accepted.transport_latency_p50_s,
        accepted.transport_latency_p95_s,
        {% for flag in flags -%}
            coalesce(accepted.{{ flag }}_readings, 0) as {{ flag }}_readings,
        {% endfor -%}
        coalesce(accepted.flagged_readings, 0) as flagged_readings

    from source_days
    left join delivered
        on
            source_days.source_name = delivered.source_name
            and source_days.ingested_on = delivered.ingested_on
    left join accepted
        on
            source_days.source_name = accepted.source_name
            and source_days.ingested_on = accepted.ingested_on
    left join rejected
        on
            source_days.source_name = rejected.source_name
            and source_days.ingested_on = rejected.ingested_on

)

select * from final
