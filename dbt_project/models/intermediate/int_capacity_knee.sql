{{ config(materialized='table') }}
with

health as (

    select * from {{ ref('battery_health') }}

),

points as (

    select * from {{ ref('int_capacity_points') }}

),

judged as (

    select * from {{ ref('int_capacity_choice') }}

),

swings as (

    select * from {{ ref('int_capacity_swing') }}

),

records as (

    select
        equipment_id,
        count(case when is_reference and capacity_ah is not null then 1 end) as reference_cycles

    from health
    group by equipment_id

),

cells as (

    select
        equipment_id,
        cell_number

    from points
    where base = 0 and bin_number = 1

),

found as (

    select
        judged.cell_number,
        judged.base,
        judged.at_1,
        judged.at_2,
        judged.mean_u,
        judged.first_position,
        judged.span,
        -- where the capacity swings with a period, the one break beside the swing
        coalesce(swings.break_u, judged.u_1) as u_1,
        coalesce(swings.break_u, judged.u_2) as u_2,
        coalesce(swings.break_ah, judged.onset_ah) as onset_ah,
        coalesce(swings.break_ah, judged.point_ah) as point_ah,
        coalesce(swings.fade_before, judged.fade_before) as fade_before,
        judged.fade_between,
        coalesce(swings.fade_after, judged.fade_after) as fade_after,
        judged.f_statistic,
        swings.low_u,
        swings.high_u,
        case when judged.at_2 is null or swings.break_u is not null then 1 else 2 end as breaks,
        judged.residual_correlation > {{ var('knee_doubtful_correlation') }} as is_correlated,
        judged.squared_error
        + greatest(judged.variance, judged.place_variance) * {{ var('knee_interval_chi2') }}
            as error_limit,
        judged.first_position + judged.span * coalesce(swings.break_u, judged.u_1) as onset,
        judged.first_position + judged.span * coalesce(swings.break_u, judged.u_2) as point

    from judged
    left join swings on judged.cell_number = swings.cell_number
    where judged.reason_number is null

),

-- Breaks that explain the curve about as well, with the same term: at the points, and at quarters
-- of the way around the best ones.
near as (

    select
        points.cell_number,
        points.line_error,
        points.total_1,
        points.norm_x,
        points.sum_1,
        points.sum_x,
        points.sum_xx,
        points.sum_q,
        points.sum_qx,
        points.sum_r,
        points.sum_rx,
        points.x,
        points.next_x - points.x as gap,
        (points.next_x - points.previous_x) / 2.0 as mean_gap,
        lead(points.x) over (partition by points.cell_number order by points.x) is null
            as is_latest,
        1.0 - found.mean_u as end_x,
        found.breaks,
        found.is_correlated,
        found.error_limit,
        points.next_x >= found.at_1 - (points.next_x - points.x)
        and points.x <= found.at_1 + (points.next_x - points.x) as is_near_1,
        points.next_x >= found.at_2 - (points.next_x - points.x)
        and points.x <= found.at_2 + (points.next_x - points.x) as is_near_2

    from points
    inner join found on points.cell_number = found.cell_number and points.base = found.base
    where points.is_candidate and found.low_u is null

),

quartered as (

    select
        cell_number,
        line_error,
        total_1,
        norm_x,
        sum_1,
        sum_x,
        sum_xx,
        sum_q,
        sum_qx,
        sum_r,
        sum_rx,
        breaks,
        is_correlated,
        error_limit,
        x + quarter * gap / 4.0 as at_x,
        -- what lies between two places tried is taken in
        case when quarter = 0 then mean_gap / 2.0 else gap / 4.0 end as reach,
        -- a break after the latest place tried would look like one there
        case
            when is_latest then end_x - (x + quarter * gap / 4.0)
            when quarter = 0 then mean_gap / 2.0
            else gap / 4.0
        end as reach_after

    from near
    cross join {{ unnest_as('[0, 1, 2, 3]', 'quarter') }}
    where quarter = 0 or is_near_1 or is_near_2

),

tried as (

    select
        *,
        {{ hinge_products('at_x') }}

    from quartered

),

likely_singles as (

    select
        cell_number,
        min(at_x - reach) as low_1,
        max(at_x + reach_after) as high_1,
        min(at_x - reach) as low_2,
        max(at_x + reach_after) as high_2

    from tried
    where
        -- one of two breaks may be a swing of the capacity
        (breaks = 1 or is_correlated)
        and cy < 0
        and cc > 1e-12 * sum_1
        and line_error - cy * cy / cc <= error_limit
    group by cell_number

),

tried_pairs as (

    select
        one.cell_number,
        one.line_error,
        one.error_limit,
        one.at_x as at_1,
        one.reach as reach_1,
        one.reach_after as reach_after_1,
        one.cy as cy1,
        one.cc as cc1,
        two.at_x as at_2,
        two.reach as reach_2,
        two.reach_after as reach_after_2,
        two.cy as cy2,
        two.cc as cc2,
        {{ hinges_product('one', 'two') }} as c12

    from tried as one
    inner join tried as two
        on
            one.cell_number = two.cell_number
            and two.at_x - one.at_x >= 0.7 * {{ var('knee_gap_share') }}
    where one.breaks = 2

),

likely_pairs as (

    select
        cell_number,
        min(at_1 - reach_1) as low_1,
        max(at_1 + reach_after_1) as high_1,
        min(at_2 - reach_2) as low_2,
        max(at_2 + reach_after_2) as high_2

    from tried_pairs
    where
        {{ pair_speeds_up() }}
        and {{ pair_error() }} <= error_limit
    group by cell_number

),

all_likely as (

    select * from likely_singles
    union all
    select * from likely_pairs
    union all
    select
        cell_number,
        low_u - mean_u as low_1,
        high_u - mean_u as high_1,
        low_u - mean_u as low_2,
        high_u - mean_u as high_2

    from found
    where low_u is not null

),

likely as (

    select
        cell_number,
        min(low_1) as low_1,
        max(high_1) as high_1,
        min(low_2) as low_2,
        max(high_2) as high_2

    from all_likely
    group by cell_number

),

-- The reference cycles nearest to the breaks.
distances as (

    select
        found.cell_number,
        health.cycle_number,
        health.started_at,
        abs(health.cycle_number - found.onset) as onset_distance,
        abs(health.cycle_number - found.point) as point_distance

    from found
    inner join cells on found.cell_number = cells.cell_number
    inner join health on cells.equipment_id = health.equipment_id
    where health.is_reference and health.capacity_ah is not null

),

onsets as (

    select *
    from distances
    qualify row_number() over (
        partition by cell_number order by onset_distance, cycle_number
    ) = 1

),

knee_points as (

    select *
    from distances
    qualify row_number() over (
        partition by cell_number order by point_distance, cycle_number
    ) = 1

),

knees as (

    select
        found.cell_number,
        knee_points.cycle_number as knee_cycle,
        knee_points.started_at as knee_at,
        found.point_ah as knee_capacity_ah,
        cast(
            floor(found.first_position + found.span * (likely.low_2 + found.mean_u)) as bigint
        ) as knee_low_cycle,
        cast(
            ceil(found.first_position + found.span * (likely.high_2 + found.mean_u)) as bigint
        ) as knee_high_cycle,
        onsets.cycle_number as knee_onset_cycle,
        onsets.started_at as knee_onset_at,
        found.onset_ah as knee_onset_capacity_ah,
        cast(
            floor(found.first_position + found.span * (likely.low_1 + found.mean_u)) as bigint
        ) as knee_onset_low_cycle,
        cast(
            ceil(found.first_position + found.span * (likely.high_1 + found.mean_u)) as bigint
        ) as knee_onset_high_cycle,
        found.fade_before as fade_before_ah_per_cycle,
        case when found.breaks = 2 then found.fade_between end
            as fade_between_ah_per_cycle,
        found.fade_after as fade_after_ah_per_cycle,
        found.f_statistic as knee_f_statistic,
        found.is_correlated

    from found
    inner join onsets on found.cell_number = onsets.cell_number
    inner join knee_points on found.cell_number = knee_points.cell_number
    inner join likely on found.cell_number = likely.cell_number

),

final as (

    select
        records.equipment_id,
        knees.knee_cycle,
        knees.knee_at,
        knees.knee_capacity_ah,
        knees.knee_low_cycle,
        knees.knee_high_cycle,
        knees.knee_onset_cycle,
        knees.knee_onset_at,
        knees.knee_onset_capacity_ah,
        knees.knee_onset_low_cycle,
        knees.knee_onset_high_cycle,
        knees.fade_before_ah_per_cycle,
        knees.fade_between_ah_per_cycle,
        knees.fade_after_ah_per_cycle,
        knees.knee_f_statistic,
        coalesce(knees.is_correlated, false) as is_knee_in_doubt,
        case
            when knees.knee_cycle is not null then null
            when judged.reason_number is not null
                then
                    case judged.reason_number
                        when 1 then 'a rest or a step between two lines, no bend'
                        when 2 then 'a step, no bend'
                        when 3 then 'no significant change of slope'
                        when 4 then 'the fade slows down'
                        when 5 then 'the fade speeds up evenly, without a bend'
                        when 6 then 'a start that levels off, no bend after it'
                        when 7 then 'the capacity does not fall after the change of slope'
                        when 8 then 'the capacity rises before the change of slope'
                        when 9
                            then
                                'the fade after it is less than {{ var('knee_slope_ratio') }} times'
                                || ' as fast'
                        when 10 then 'too little is lost since the change of slope'
                    end
            when records.reference_cycles < {{ var('knee_min_cycles') }}
                then 'fewer than {{ var('knee_min_cycles') }} reference cycles'
            when cells.cell_number is null
                then
                    'too few reference cycles above {{ (100 * var('knee_floor_share')) | int }} %'
                    || ' of the first capacity'
            else 'the fade speeds up nowhere'
        end as knee_reason

    from records
    left join cells on records.equipment_id = cells.equipment_id
    left join knees on cells.cell_number = knees.cell_number
    left join judged on cells.cell_number = judged.cell_number

)

select * from final
