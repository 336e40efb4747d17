{{ config(cluster_by=clusters(['equipment_id', 'cycle_number'])) }}
with

stages as (

    select * from {{ ref('int_ica_stages') }}

),

points as (

    select
        stage_key,
        count(*) as points,
        count(dq_dv_ah_per_v) as known_points,
        sum(
            case when reason = 'the readings are too far apart here' then 1 else 0 end
        ) as sparse_points,
        min(voltage_v) as voltage_from_v,
        max(voltage_v) as voltage_to_v

    from {{ ref('battery_ica') }}
    group by stage_key

),

peaks as (

    select
        stage_key,
        count(*) as peaks

    from {{ ref('battery_ica_peaks') }}
    group by stage_key

),

final as (

    select
        stages.stage_key,
        stages.cycle_key,
        stages.equipment_id,
        stages.cycle_number,
        stages.test_key,
        stages.direction,
        stages.step_run,
        stages.stage,
        stages.current_a,
        stages.span_ah as charge_ah,
        cast(stages.readings as bigint) as readings,
        stages.sampling_ah,
        stages.noise_v,
        stages.resolution_v,
        stages.window_ah,
        points.voltage_from_v,
        points.voltage_to_v,
        coalesce(points.points, 0) as points,
        coalesce(points.known_points, 0) as known_points,
        coalesce(peaks.peaks, 0) as peaks,
        case
            when stages.reason is not null then stages.reason
            when peaks.peaks is null and 2 * points.sparse_points > points.points
                then 'the readings are too far apart, or the voltage is too coarse'
            when points.known_points = 0 then 'the slope does not stand out from the noise'
            when peaks.peaks is null then 'no peak stands out from its surroundings and its error'
        end as reason

    from stages
    left join points on stages.stage_key = points.stage_key
    left join peaks on stages.stage_key = peaks.stage_key

)

select * from final
