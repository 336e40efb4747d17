with

predictions as (

    select
        prediction_id,
        equipment_id,
        cycle_id,
        cycle_ended_at

    from {{ ref('stg_predictions') }}

),

live_cycles as (

    select
        cycle_id,
        started_at

    from {{ ref('stg_cycles_live') }}

),

cycles as (

    select
        equipment_id,
        cycle_number,
        started_at,
        ended_at

    from {{ ref('battery_cycles') }}

),

-- Nearly all of them: a comparison of equals, which costs a warehouse little.
at_the_same_moment as (

    select
        predictions.prediction_id,
        min(cycles.cycle_number) as cycle_number

    from predictions
    inner join cycles
        on
            predictions.equipment_id = cycles.equipment_id
            and predictions.cycle_ended_at = cycles.ended_at
    group by predictions.prediction_id

),

-- The models may draw a cycle's end elsewhere, as where a file came late.
others as (

    select
        predictions.*,
        coalesce(live_cycles.started_at, predictions.cycle_ended_at) as cycle_started_at

    from predictions
    left join at_the_same_moment
        on predictions.prediction_id = at_the_same_moment.prediction_id
    left join live_cycles on predictions.cycle_id = live_cycles.cycle_id
    where at_the_same_moment.prediction_id is null

),

overlapping as (

    select
        others.prediction_id,
        cycles.cycle_number

    from others
    inner join cycles
        on
            others.equipment_id = cycles.equipment_id
            and others.cycle_ended_at >= cycles.started_at
            and others.cycle_started_at <= cycles.ended_at
    qualify row_number() over (
        partition by others.prediction_id
        order by
            abs({{ seconds_between('cycles.ended_at', 'others.cycle_ended_at') }}) asc,
            cycles.cycle_number asc
    ) = 1

),

final as (

    select
        prediction_id,
        cycle_number,
        true as is_same_end

    from at_the_same_moment

    union all

    select
        prediction_id,
        cycle_number,
        false as is_same_end

    from overlapping

)

select * from final
