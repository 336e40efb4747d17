{%- set reach = var('remaining_reach') -%}
with

health as (

    select * from {{ ref('battery_health') }}
    where is_valid and discharge_median_ah is not null

),

recent as (

    select
        equipment_id,
        cycle_number,
        discharge_median_ah,
        nominal_capacity_ah,
        is_end_of_life,
        row_number() over (partition by equipment_id order by cycle_number desc) as from_end,
        count(*) over (partition by equipment_id) as reference_cycles,
        max(cycle_number) over (partition by equipment_id)
        - min(cycle_number) over (partition by equipment_id) + 1 as record_cycles

    from health

),

latest as (

    select
        equipment_id,
        cycle_number as last_reference_cycle,
        discharge_median_ah as capacity_ah,
        0.8 * nominal_capacity_ah as threshold_ah,
        is_end_of_life,
        reference_cycles,
        record_cycles

    from recent
    where from_end = 1

),

-- Three looks back: the short one follows a change of pace, the long one is not fooled by noise.
-- Where they disagree the estimate is unsure, and that is what the range is for.
looks as (

    select
        recent.*,
        look_back

    from recent
    cross join {{ unnest_as('[25, 50, 100]', 'look_back') }}
    where recent.from_end <= look_back

),

looks_centred as (

    select
        equipment_id,
        look_back,
        discharge_median_ah as y,
        cycle_number - avg(cycle_number) over (partition by equipment_id, look_back) as x

    from looks

),

moments as (

    select
        equipment_id,
        look_back,
        count(*) as n,
        sum(x * x) as cxx,
        sum(x * y) as cxy,
        sum(y * y) - sum(y) * sum(y) / count(*) as cyy

    from looks_centred
    group by equipment_id, look_back

),

slopes as (

    select
        equipment_id,
        look_back,
        cxy / cxx as slope,
        -- medians of five cycles that overlap are not independent: a fifth of them counts
        sqrt(5.0 * greatest(cyy - cxy * cxy / cxx, 0.0) / (n - 2) / cxx) as slope_error

    from moments
    -- too few cycles say nothing about the pace
    where n >= {{ var('remaining_least_cycles') }} and cxx > 0

),

estimates as (

    select
        latest.equipment_id,
        slopes.look_back,
        greatest(latest.capacity_ah - latest.threshold_ah, 0.0) as margin_ah,
        -slopes.slope as fade,
        -slopes.slope + 2.0 * slopes.slope_error as fade_fastest,
        -slopes.slope - 2.0 * slopes.slope_error as fade_slowest

    from latest
    inner join slopes on latest.equipment_id = slopes.equipment_id

),

at_this_pace as (

    select
        equipment_id,
        max(
            case when look_back = 50 and fade_slowest > 0 then margin_ah / fade end
        ) as cycles_left,
        min(case when fade_fastest > 0 then margin_ah / fade_fastest end) as cycles_left_low,
        -- open-ended as soon as one look cannot exclude that the fade stands still
        case
            when min(fade_slowest) > 0
                then max(case when fade_slowest > 0 then margin_ah / fade_slowest end)
        end as cycles_left_high

    from estimates
    group by equipment_id

),

-- Nothing is said beyond the reach of the record.
within_reach as (

    select
        latest.*,
        at_this_pace.equipment_id is not null as is_known,
        {{ reach }} * latest.record_cycles as reach_cycles,
        at_this_pace.cycles_left,
        least(
            coalesce(at_this_pace.cycles_left_low, {{ reach }} * latest.record_cycles),
            {{ reach }} * latest.record_cycles
        ) as cycles_left_low,
        at_this_pace.cycles_left_high

    from latest
    left join at_this_pace on latest.equipment_id = at_this_pace.equipment_id

),

-- The further away, the more the pace may change on the way.
ranges as (

    select
        *,
        case when cycles_left <= reach_cycles then cycles_left end as estimate,
        cycles_left_low
        / (1.0 + {{ var('remaining_faster') }} * cycles_left_low / record_cycles) as estimate_low,
        cycles_left_high
        * (1.0 + {{ var('remaining_slower') }} * cycles_left_high / record_cycles) as estimate_high

    from within_reach

),

final as (

    select
        equipment_id,
        last_reference_cycle,
        record_cycles,
        case
            when is_end_of_life then 0.0
            when is_known then estimate
        end as remaining_cycles,
        case
            when is_end_of_life then 0.0
            when is_known then estimate_low
        end as remaining_cycles_low,
        case
            when is_end_of_life then 0.0
            when is_known and estimate_high <= reach_cycles then estimate_high
        end as remaining_cycles_high,
        case
            when is_end_of_life then null
            when not is_known
                then 'fewer than {{ var("remaining_least_cycles") }} reference cycles'
            when cycles_left is null then 'no significant fade'
            when estimate is null then 'further away than the record is long'
        end as remaining_reason

    from ranges

)

select * from final
