{{ config(cluster_by=clusters(['model', 'equipment_id'])) }}

with

predictions as (

    select * from {{ ref('stg_predictions') }}

),

prediction_cycles as (

    select * from {{ ref('int_prediction_cycles') }}

),

ends_of_life as (

    select * from {{ ref('int_end_of_life') }}

),

-- State of health as it was: between two reference cycles on the straight line between them.
health as (

    select
        equipment_id,
        cycle_number,
        initial_capacity_ah,
        nominal_capacity_ah,
        soh_initial,
        max(case when soh_initial is not null then cycle_number end) over (
            partition by equipment_id
            order by cycle_number
            rows between unbounded preceding and current row
        ) as known_before,
        min(case when soh_initial is not null then cycle_number end) over (
            partition by equipment_id
            order by cycle_number
            rows between current row and unbounded following
        ) as known_after

    from {{ ref('battery_health') }}

),

known as (

    select
        health.equipment_id,
        health.cycle_number,
        health.soh_initial is not null as is_measured,
        coalesce(
            health.soh_initial,
            before.soh_initial + (after.soh_initial - before.soh_initial)
            * (health.cycle_number - before.cycle_number)
            / nullif(after.cycle_number - before.cycle_number, 0)
        ) as true_soh

    from health
    left join health as before
        on
            health.equipment_id = before.equipment_id
            and health.known_before = before.cycle_number
    left join health as after
        on
            health.equipment_id = after.equipment_id
            and health.known_after = after.cycle_number

),

cells as (

    select
        equipment_id,
        max(initial_capacity_ah) as initial_capacity_ah,
        max(nominal_capacity_ah) as nominal_capacity_ah,
        max(case when soh_initial is not null then cycle_number end) as last_known_cycle

    from health
    group by equipment_id

),

-- Which end of life a prediction's threshold is: the one at the same capacity -------------------

tracked as (

    {% for name, share, capacity in [
        ('80_initial', 0.8, 'initial_capacity_ah'),
        ('80_nominal', 0.8, 'nominal_capacity_ah'),
        ('70_nominal', 0.7, 'nominal_capacity_ah')
    ] -%}
        select
            equipment_id,
            '{{ name }}' as threshold,
            {{ share }} * {{ capacity }} as threshold_ah

        from cells
        {% if not loop.last %}
            union all
        {% endif %}
    {% endfor %}

),

predicted_thresholds as (

    select distinct
        predictions.equipment_id,
        predictions.threshold_soh,
        predictions.threshold_soh * cells.initial_capacity_ah as threshold_ah

    from predictions
    inner join cells on predictions.equipment_id = cells.equipment_id

),

thresholds as (

    select
        predicted_thresholds.equipment_id,
        predicted_thresholds.threshold_soh,
        tracked.threshold

    from predicted_thresholds
    inner join tracked on predicted_thresholds.equipment_id = tracked.equipment_id
    where
        abs(tracked.threshold_ah - predicted_thresholds.threshold_ah)
        <= {{ var('prediction_threshold_share') }} * predicted_thresholds.threshold_ah
    qualify row_number() over (
        partition by
            predicted_thresholds.equipment_id,
            -- a number is nothing to partition by on BigQuery
            cast(predicted_thresholds.threshold_soh as string)
        order by
            abs(tracked.threshold_ah - predicted_thresholds.threshold_ah) asc,
            tracked.threshold asc
    ) = 1

),

joined as (

    select
        predictions.*,
        prediction_cycles.cycle_number as cell_cycle_number,
        known.true_soh,
        known.is_measured,
        thresholds.threshold,
        ends_of_life.end_of_life_cycle,
        ends_of_life.end_of_life_at as true_end_of_life_at,
        case
            when ends_of_life.end_of_life_cycle > prediction_cycles.cycle_number
                then ends_of_life.end_of_life_cycle - prediction_cycles.cycle_number
        end as true_remaining_cycles,
        case
            when
                thresholds.threshold is not null
                and ends_of_life.end_of_life_cycle is null
                and cells.last_known_cycle >= prediction_cycles.cycle_number
                then cells.last_known_cycle - prediction_cycles.cycle_number
        end as outlived_cycles

    from predictions
    left join prediction_cycles on predictions.prediction_id = prediction_cycles.prediction_id
    left join cells on predictions.equipment_id = cells.equipment_id
    left join known
        on
            predictions.equipment_id = known.equipment_id
            and prediction_cycles.cycle_number = known.cycle_number
    left join thresholds
        on
            predictions.equipment_id = thresholds.equipment_id
            and predictions.threshold_soh = thresholds.threshold_soh
    left join ends_of_life
        on
            predictions.equipment_id = ends_of_life.equipment_id
            and thresholds.threshold = ends_of_life.threshold

),

final as (

    select
        prediction_id,
        equipment_id,
        model,
        model_version,
        made_at,
        cycle_ended_at,
        cycle_number as stream_cycle_number,
        cell_cycle_number as cycle_number,
        out_of_domain,
        soh,
        soh_low,
        soh_high,
        true_soh,
        is_measured as is_true_soh_measured,
        soh - true_soh as soh_error,
        true_soh between soh_low and soh_high as is_soh_covered,
        threshold_soh,
        threshold,
        end_of_life_cycle,
        true_end_of_life_at,
        remaining_cycles,
        remaining_cycles_low,
        remaining_cycles_high,
        true_remaining_cycles,
        remaining_cycles - true_remaining_cycles as remaining_error_cycles,
        abs(remaining_cycles - true_remaining_cycles) / nullif(true_remaining_cycles, 0)
            as remaining_error_share,
        abs(remaining_cycles - true_remaining_cycles) / nullif(end_of_life_cycle, 0)
            as life_error_share,
        -- an upper end that is open holds whatever comes
        true_remaining_cycles >= remaining_cycles_low
        and coalesce(true_remaining_cycles <= remaining_cycles_high, true) as is_remaining_covered,
        case
            when true_remaining_cycles is not null
                then
                    {{ seconds_between('true_end_of_life_at', 'end_of_life_at') }} / 86400.0
        end as end_of_life_error_days,
        outlived_cycles,
        outlived_cycles > remaining_cycles_high as is_refuted,
        cell_cycle_number / nullif(end_of_life_cycle, 0) as life_spent,
        case
            when cell_cycle_number >= end_of_life_cycle then 'after'
            {% for percent in [20, 40, 60, 80] -%}
                when cell_cycle_number < {{ percent / 100 }} * end_of_life_cycle
                    then '{{ percent - 20 }} to {{ percent }} %'
            {% endfor -%}
            when end_of_life_cycle is not null and cell_cycle_number is not null then '80 to 100 %'
        end as life_spent_bin,
        case
            when true_remaining_cycles < 50 then 'below 50'
            when true_remaining_cycles < 100 then '50 to 100'
            when true_remaining_cycles < 200 then '100 to 200'
            when true_remaining_cycles < 500 then '200 to 500'
            when true_remaining_cycles >= 500 then '500 and more'
        end as remaining_bin,
        case
            when cell_cycle_number is null then 'the cycle is not in battery_cycles'
            when threshold is null then 'no end of life is followed at this threshold'
            when end_of_life_cycle is null then 'the end of life is not reached'
            when cell_cycle_number >= end_of_life_cycle then 'made after the end of life'
        end as life_reason

    from joined

)

select * from final
