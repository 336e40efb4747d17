{%- set in_a_row = var('alert_predictions') | int -%}
with

predictions as (

    select * from {{ ref('stg_predictions') }}
    where not out_of_domain

),

-- Of a cycle that two versions of a model predicted, as when one replaces the other, the later.
latest as (

    select *
    from predictions
    qualify row_number() over (
        partition by equipment_id, model, cycle_id
        order by made_at desc, prediction_id asc
    ) = 1

),

judged as (

    select
        *,
        'end_of_life_near' as rule,
        remaining_cycles as measured,
        case
            when
                coalesce(remaining_cycles < {{ var('alert_remaining_cycles') }}, false)
                or coalesce(remaining_cycles_high < {{ var('alert_remaining_cycles') }}, false)
                then 1
            else 0
        end as holds,
        coalesce(cast(cast(round(remaining_cycles) as bigint) as string), 'not known how many')
        || ' cycles left (90 %: '
        || coalesce(cast(cast(round(remaining_cycles_low) as bigint) as string), '?')
        || ' to '
        || coalesce(cast(cast(round(remaining_cycles_high) as bigint) as string), 'open')
        || ') until ' || {{ shown('100.0 * threshold_soh', 1) }}
        || ' % of the initial capacity; below {{ var("alert_remaining_cycles") }}' as figures

    from latest
    where coalesce(remaining_cycles, remaining_cycles_high) is not null

    union all

    select
        *,
        'knee_warning' as rule,
        knee_risk as measured,
        case when knee_risk >= {{ var('alert_knee_risk') }} then 1 else 0 end as holds,
        'probability of a knee ' || {{ shown('knee_risk', 2) }}
        || '; at least {{ var("alert_knee_risk") }}' as figures

    from latest
    where knee_risk is not null

),

-- So many in a row begin an episode, and as many in which the rule does not hold end it.
with_run as (

    select
        *,
        sum(holds) over (
            last_ones rows between {{ [in_a_row - 1, 0] | max }} preceding and current row
        ) as held,
        row_number() over (last_ones) as place

    from judged
    window last_ones as (
        partition by equipment_id, model, rule
        order by cycle_ended_at, made_at, prediction_id
    )

),

with_turn as (

    select
        *,
        case
            when place < {{ in_a_row }} then null
            when held = {{ in_a_row }} then 1
            when held = 0 then 0
        end as turn

    from with_run

),

with_turns as (

    select
        *,
        count(turn) over (
            partition by equipment_id, model, rule
            order by place
            rows between unbounded preceding and current row
        ) as turns

    from with_turn

),

with_state as (

    select
        *,
        coalesce(max(turn) over (partition by equipment_id, model, rule, turns), 0) as is_on

    from with_turns

),

with_start as (

    select
        *,
        case
            when
                is_on = 1
                and coalesce(
                    lag(is_on) over (partition by equipment_id, model, rule order by place), 0
                ) = 0
                then 1
            else 0
        end as is_start

    from with_state

),

numbered as (

    select
        *,
        sum(is_start) over (
            partition by equipment_id, model, rule
            order by place
            rows between unbounded preceding and current row
        ) as episode

    from with_start

),

final as (

    select
        equipment_id,
        model,
        rule,
        episode,
        max(case when is_start = 1 then cycle_ended_at end) as started_at,
        max(case when holds = 1 then cycle_ended_at end) as ended_at,
        sum(holds) as predictions,
        min(measured) as measured_min,
        max(measured) as measured_max,
        max(
            case
                when is_start = 1
                    then
                        figures || ', in {{ in_a_row }} predictions in a row; model ' || model
                        || ', version ' || substr(model_version, 1, 12)
                        || ', at cycle ' || cast(cycle_number as string) || ' of the stream'
            end
        ) as evidence

    from numbered
    where is_on = 1
    group by equipment_id, model, rule, episode

)

select * from final
