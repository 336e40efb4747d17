{{ config(cluster_by=clusters(['equipment_id', 'rule'])) }}

with

readings as (

    select * from {{ ref('battery_features') }}
    where is_flagged

),

lifetimes as (

    select * from {{ ref('battery_lifetime') }}

),

prediction_alerts as (

    select * from {{ ref('int_prediction_alerts') }}

),

flags as (

    select
        readings.equipment_id,
        readings.equipment_type,
        readings.reading_id,
        readings.recorded_at,
        quality_flag as rule,
        -- the measurement that the rule is about
        case quality_flag
            when 'voltage_out_of_range' then readings.voltage_v
            when 'stuck' then readings.voltage_v
            when 'current_out_of_range' then readings.current_a
            when 'temperature_out_of_range' then readings.temperature_c
            when 'frequency_out_of_range' then readings.frequency_hz
            when 'gap' then readings.time_delta_s
        end as measured

    from readings
    cross join {{ unnest_as('readings.quality_flags', 'quality_flag') }}
    where
        -- a measurement of its own kind, nothing to be warned of
        quality_flag <> 'impedance'
        -- the models judge gaps by the whole test, which the stream does not know
        and (quality_flag <> 'gap' or readings.is_gap)

),

with_breaks as (

    select
        *,
        case
            when
                {{ seconds_between(
                    'lag(recorded_at) over occurrences', 'recorded_at'
                ) }} <= {{ var('alert_merge_s') }}
                then 0
            else 1
        end as is_new

    from flags
    window occurrences as (
        partition by equipment_id, rule order by recorded_at, reading_id
    )

),

numbered as (

    select
        *,
        sum(is_new) over (
            partition by equipment_id, rule
            order by recorded_at, reading_id
            rows between unbounded preceding and current row
        ) as alert_number

    from with_breaks

),

reading_alerts as (

    select
        equipment_id,
        min(equipment_type) as equipment_type,
        rule,
        case
            when rule = 'temperature_out_of_range' then 'critical'
            when
                rule in (
                    'voltage_out_of_range',
                    'current_out_of_range',
                    'frequency_out_of_range',
                    'stuck',
                    'counter_jump',
                    'clock_disagrees',
                    'direction_disagrees'
                )
                then 'warning'
            else 'info'
        end as severity,
        min(recorded_at) as started_at,
        max(recorded_at) as ended_at,
        count(*) as readings,
        min(measured) as measured_min,
        max(measured) as measured_max,
        'flagged readings: ' || cast(count(*) as string) || coalesce(
            ', ' || {{ shown('min(measured)', 3) }} || ' to ' || {{ shown('max(measured)', 3) }}, ''
        ) as evidence,
        cast(null as string) as model

    from numbered
    group by equipment_id, rule, alert_number

),

life_alerts as (

    select
        equipment_id,
        'battery_cell' as equipment_type,
        'end_of_life' as rule,
        'critical' as severity,
        eol_80_nominal_at as started_at,
        eol_80_nominal_at as ended_at,
        cast(0 as bigint) as readings,
        0.8 * nominal_capacity_ah as measured_min,
        0.8 * nominal_capacity_ah as measured_max,
        'the median capacity is below ' || {{ shown('0.8 * nominal_capacity_ah', 3) }}
        || ' Ah since cycle ' || cast(eol_80_nominal_cycle as string) as evidence,
        cast(null as string) as model

    from lifetimes
    where eol_80_nominal_at is not null

    union all

    select
        equipment_id,
        'battery_cell' as equipment_type,
        'capacity_knee' as rule,
        'warning' as severity,
        knee_at as started_at,
        knee_at as ended_at,
        cast(0 as bigint) as readings,
        knee_capacity_ah as measured_min,
        knee_capacity_ah as measured_max,
        'the fade is fastest from cycle ' || cast(knee_cycle as string) || ' on, at '
        || {{ shown('knee_capacity_ah', 3) }} || ' Ah' as evidence,
        cast(null as string) as model

    from lifetimes
    where knee_at is not null

    union all

    -- of cells that have readings here
    select
        prediction_alerts.equipment_id,
        'battery_cell' as equipment_type,
        prediction_alerts.rule,
        'warning' as severity,
        prediction_alerts.started_at,
        prediction_alerts.ended_at,
        cast(0 as bigint) as readings,
        prediction_alerts.measured_min,
        prediction_alerts.measured_max,
        prediction_alerts.evidence,
        prediction_alerts.model

    from prediction_alerts
    inner join lifetimes on prediction_alerts.equipment_id = lifetimes.equipment_id

),

alerts as (

    select * from reading_alerts
    union all
    select * from life_alerts

),

final as (

    select
        equipment_id
        || '|' || rule
        || '|' || cast({{ epoch_micros('started_at') }} as string)
        || coalesce('|' || model, '') as alert_key,
        equipment_id,
        equipment_type,
        rule,
        severity,
        started_at,
        ended_at,
        readings,
        measured_min,
        measured_max,
        model,
        evidence

    from alerts

)

select * from final
