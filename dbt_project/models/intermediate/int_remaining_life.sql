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
        row_number() over (partition by equipment_id order by cycle_number desc) as from_end

    from health

),

latest as (

    select
        equipment_id,
        cycle_number as last_valid_cycle,
        discharge_median_ah as capacity_ah,
        0.8 * nominal_capacity_ah as threshold_ah,
        is_end_of_life

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
    where n >= 10 and cxx > 0

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

ranges as (

    select
        equipment_id,
        max(case when look_back = 50 and fade > 0 then margin_ah / fade end) as remaining_cycles,
        min(case when fade_fastest > 0 then margin_ah / fade_fastest end) as remaining_cycles_low,
        -- open-ended as soon as one look cannot exclude that the fade stands still
        case
            when min(fade_slowest) > 0
                then max(case when fade_slowest > 0 then margin_ah / fade_slowest end)
        end as remaining_cycles_high

    from estimates
    group by equipment_id

),

final as (

    select
        latest.equipment_id,
        latest.last_valid_cycle,
        case when latest.is_end_of_life then 0.0 else ranges.remaining_cycles end
            as remaining_cycles,
        case when latest.is_end_of_life then 0.0 else ranges.remaining_cycles_low end
            as remaining_cycles_low,
        case when latest.is_end_of_life then 0.0 else ranges.remaining_cycles_high end
            as remaining_cycles_high

    from latest
    left join ranges on latest.equipment_id = ranges.equipment_id

)

select * from final
