{{ config(materialized='table') }}
{%- set penalty = var('knee_parameter_penalty') -%}
with

health as (

    select * from {{ ref('battery_health') }}

),

points as (

    select * from {{ ref('int_capacity_points') }}

),

fits as (

    select * from {{ ref('int_capacity_breaks') }}

),

records as (

    select
        equipment_id,
        count(case when is_reference and capacity_ah is not null then 1 end) as reference_cycles

    from health
    group by equipment_id

),

-- One row a cell of what all its fits share.
curves as (

    select
        equipment_id,
        max(bins) as bins,
        max(total_1) as total_1,
        max(initial_ah) as initial_ah,
        max(first_position) as first_position,
        max(span) as span,
        max(mean_u) as mean_u,
        max(mean_ah) as mean_ah,
        max(norm_x) as norm_x,
        max(y1) as y1

    from points
    group by equipment_id

),

knee_fits as (

    select * from fits
    where fit in ('one_break', 'two_breaks')

),

-- The noise is what the closest fit leaves.
closest as (

    select *
    from knee_fits
    qualify row_number() over (
        partition by equipment_id order by squared_error, parameters, base
    ) = 1

),

left_over as (

    select
        points.equipment_id,
        points.bin_number,
        sqrt(points.w) * (
            points.r
            - closest.change_1 * (
                greatest(points.x - closest.at_1, 0.0)
                - closest.h0_1 / sqrt(points.total_1)
                - closest.h1_1 * points.x / points.norm_x
                - closest.h2_1 * points.q
            )
            - coalesce(
                closest.change_2 * (
                    greatest(points.x - closest.at_2, 0.0)
                    - closest.h0_2 / sqrt(points.total_1)
                    - closest.h1_2 * points.x / points.norm_x
                    - closest.h2_2 * points.q
                ), 0.0
            )
        ) as z

    from points
    inner join closest
        on points.equipment_id = closest.equipment_id and points.base = closest.base

),

neighbours as (

    select
        *,
        lead(z) over (partition by equipment_id order by bin_number) as next_z

    from left_over

),

-- Lag-1 autocorrelation; fitting takes about 2 / n of it away.
correlations as (

    select
        equipment_id,
        least(
            greatest(
                coalesce(sum(z * next_z) / nullif(sum(z * z), 0.0), 0.0) + 2.0 / count(*), 0.0
            ), 0.95
        ) as rho

    from neighbours
    group by equipment_id

),

-- Points that follow one another count for less: n (1 - rho) / (1 + rho) independent ones.
noise as (

    select
        curves.equipment_id,
        greatest(curves.bins * (1.0 - correlations.rho) / (1.0 + correlations.rho), 12.0)
            as effective_points,
        greatest(
            closest.squared_error / (
                greatest(curves.bins * (1.0 - correlations.rho) / (1.0 + correlations.rho), 12.0)
                - closest.parameters
            ),
            power({{ var('knee_resolution_share') }} * curves.initial_ah, 2)
        ) as variance

    from curves
    inner join closest on curves.equipment_id = closest.equipment_id
    inner join correlations on curves.equipment_id = correlations.equipment_id

),

criteria as (

    select
        fits.*,
        noise.variance,
        fits.squared_error / noise.variance + {{ penalty }} * fits.parameters as criterion

    from fits
    inner join noise on fits.equipment_id = noise.equipment_id

),

best as (

    select *
    from criteria
    where fit in ('one_break', 'two_breaks')
    qualify row_number() over (
        partition by equipment_id order by criterion, parameters, base
    ) = 1

),

others as (

    select
        equipment_id,
        min(case when fit = 'line' and base = 'straight' then squared_error end)
            as straight_error,
        min(case when fit = 'line' and base = 'parabola' then criterion end)
            as parabola_criterion,
        min(case when fit = 'line' then criterion end) as smooth_criterion,
        min(case when fit = 'step' then criterion end) as step_criterion,
        min(case when fit = 'jump' then criterion end) as jump_criterion,
        min(case when fit = 'jump' then squared_error end) as jump_error,
        min(case when fit = 'slowing' then criterion end) as slowing_criterion

    from criteria
    group by equipment_id

),

measured as (

    select
        best.*,
        others.parabola_criterion,
        others.smooth_criterion,
        others.step_criterion,
        others.jump_criterion,
        others.jump_error,
        others.slowing_criterion,
        curves.initial_ah,
        curves.first_position,
        curves.span,
        curves.mean_u,
        curves.mean_ah,
        curves.norm_x,
        curves.total_1,
        term.mean_g,
        term.g1,
        term.norm_g,
        (others.straight_error - best.squared_error) / (best.parameters - 2) / best.variance
            as f_statistic,
        -- the line's and the term's coefficients
        curves.y1 - best.change_1 * best.h1_1 - coalesce(best.change_2 * best.h1_2, 0.0)
            as line_coefficient,
        case
            when term.terms = 0 then 0.0
            else
                (term.y2 - best.change_1 * best.h2_1 - coalesce(best.change_2 * best.h2_2, 0.0))
                / term.norm_g
        end as term_coefficient,
        best.at_1 + curves.mean_u as u_1,
        coalesce(best.at_2, best.at_1) + curves.mean_u as u_2

    from best
    inner join others on best.equipment_id = others.equipment_id
    inner join curves on best.equipment_id = curves.equipment_id
    inner join points as term
        on
            best.equipment_id = term.equipment_id
            and best.base = term.base
            and term.bin_number = 1

),

-- In units of the record's length still.
slopes as (

    select
        *,
        line_coefficient / norm_x
        + term_coefficient * ({{ knee_term('u_1', 'slope') }} - g1 / norm_x) as slope_before,
        mean_ah - change_1 * h0_1 / sqrt(total_1) - coalesce(change_2 * h0_2, 0.0) / sqrt(total_1)
            as level_ah

    from measured

),

paces as (

    select
        *,
        -slope_before / span as fade_before,
        -(slope_before + change_1) / span as fade_between,
        -(slope_before + change_1 + coalesce(change_2, 0.0)) / span as fade_after,
        level_ah
        + line_coefficient * at_1 / norm_x
        + term_coefficient * ({{ knee_term('u_1') }} - mean_g - g1 * at_1 / norm_x)
            as onset_ah,
        level_ah
        + line_coefficient * coalesce(at_2, at_1) / norm_x
        + term_coefficient * (
            {{ knee_term('u_2') }} - mean_g - g1 * coalesce(at_2, at_1) / norm_x
        )
        + change_1 * (coalesce(at_2, at_1) - at_1) as point_ah

    from slopes

),

judged as (

    select
        *,
        case
            when f_statistic < {{ var('knee_min_f') }} then 'no significant change of slope'
            when
                step_criterion < criterion
                and step_criterion <= least(
                    coalesce(slowing_criterion, step_criterion), smooth_criterion
                )
                then 'a step, no bend'
            when
                slowing_criterion < criterion and slowing_criterion <= smooth_criterion
                then 'the fade slows down'
            when
                smooth_criterion < criterion + {{ var('knee_smooth_margin') }}
                then
                    case
                        when parabola_criterion = smooth_criterion
                            then 'the fade speeds up evenly, without a bend'
                        else 'a start that levels off, no bend after it'
                    end
            when step_criterion < criterion then 'a step, no bend'
            when slowing_criterion < criterion then 'the fade slows down'
            when
                jump_criterion < criterion - {{ var('knee_jump_margin') }}
                and jump_error < {{ var('knee_jump_error_share') }} * squared_error
                then 'a jump between two lines, no bend'
            when fade_after <= 0 then 'the capacity does not fall after the change of slope'
            when fade_before < -{{ var('knee_rise_share') }} * fade_after
                then 'the capacity rises before the change of slope'
            when fade_after < {{ var('knee_slope_ratio') }} * fade_before
                then 'the fade after it is less than {{ var('knee_slope_ratio') }} times as fast'
            when
                (fade_after - fade_before) * (1.0 - u_2) * span
                < {{ var('knee_loss_share') }} * initial_ah
                then 'too little is lost since the change of slope'
        end as reason

    from paces

),

found as (

    select
        *,
        squared_error + variance * {{ var('knee_interval_chi2') }} as error_limit,
        first_position + span * u_1 as onset,
        first_position + span * u_2 as point

    from judged
    where reason is null

),

-- Breaks that explain the curve about as well, with the same term: at the points, and at quarters
-- of the way around the best ones.
quartered as (

    select
        points.equipment_id,
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
        found.fit,
        found.error_limit,
        points.x + quarter * (points.next_x - points.x) / 4.0 as at_x,
        -- what lies between two places tried is taken in
        case
            when quarter = 0 then (points.next_x - points.previous_x) / 4.0
            else (points.next_x - points.x) / 4.0
        end as reach

    from points
    inner join found on points.equipment_id = found.equipment_id and points.base = found.base
    cross join {{ unnest_as('[0, 1, 2, 3]', 'quarter') }}
    where
        points.is_candidate
        and (
            quarter = 0
            or (
                points.x <= found.at_1 + (points.next_x - points.x)
                and points.next_x >= found.at_1 - (points.next_x - points.x)
            )
            or (
                points.x <= found.at_2 + (points.next_x - points.x)
                and points.next_x >= found.at_2 - (points.next_x - points.x)
            )
        )

),

tried as (

    select
        *,
        {{ hinge_products('at_x') }}

    from quartered

),

likely_singles as (

    select
        equipment_id,
        min(at_x - reach) as low_1,
        max(at_x + reach) as high_1,
        min(at_x - reach) as low_2,
        max(at_x + reach) as high_2

    from tried
    where
        fit = 'one_break'
        and cy < 0
        and cc > 1e-12 * sum_1
        and line_error - cy * cy / cc <= error_limit
    group by equipment_id

),

tried_pairs as (

    select
        one.equipment_id,
        one.line_error,
        one.error_limit,
        one.at_x as at_1,
        one.reach as reach_1,
        one.cy as cy1,
        one.cc as cc1,
        two.at_x as at_2,
        two.reach as reach_2,
        two.cy as cy2,
        two.cc as cc2,
        {{ hinges_product('one', 'two') }} as c12

    from tried as one
    inner join tried as two
        on
            one.equipment_id = two.equipment_id
            and two.at_x - one.at_x >= 0.7 * {{ var('knee_gap_share') }}
    where one.fit = 'two_breaks'

),

likely_pairs as (

    select
        equipment_id,
        min(at_1 - reach_1) as low_1,
        max(at_1 + reach_1) as high_1,
        min(at_2 - reach_2) as low_2,
        max(at_2 + reach_2) as high_2

    from tried_pairs
    where
        cc1 * cc2 - c12 * c12 > 1e-9 * cc1 * cc2
        and cy1 * cc2 < cy2 * c12
        and cy2 * cc1 < cy1 * c12
        and line_error
        - (cy1 * cy1 * cc2 - 2.0 * cy1 * cy2 * c12 + cy2 * cy2 * cc1) / (cc1 * cc2 - c12 * c12)
        <= error_limit
    group by equipment_id

),

likely as (

    select * from likely_singles
    union all
    select * from likely_pairs

),

-- The reference cycles nearest to the breaks.
distances as (

    select
        health.equipment_id,
        health.cycle_number,
        health.started_at,
        abs(health.cycle_number - found.onset) as onset_distance,
        abs(health.cycle_number - found.point) as point_distance

    from health
    inner join found on health.equipment_id = found.equipment_id
    where health.is_reference and health.capacity_ah is not null

),

onsets as (

    select *
    from distances
    qualify row_number() over (
        partition by equipment_id order by onset_distance, cycle_number
    ) = 1

),

knee_points as (

    select *
    from distances
    qualify row_number() over (
        partition by equipment_id order by point_distance, cycle_number
    ) = 1

),

knees as (

    select
        found.equipment_id,
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
        case when found.fit = 'two_breaks' then found.fade_between end
            as fade_between_ah_per_cycle,
        found.fade_after as fade_after_ah_per_cycle,
        found.f_statistic as knee_f_statistic

    from found
    inner join onsets on found.equipment_id = onsets.equipment_id
    inner join knee_points on found.equipment_id = knee_points.equipment_id
    inner join likely on found.equipment_id = likely.equipment_id

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
        case
            when knees.knee_cycle is not null then null
            when judged.reason is not null then judged.reason
            when records.reference_cycles < {{ var('knee_min_cycles') }}
                then 'fewer than {{ var('knee_min_cycles') }} reference cycles'
            when lines.bins is null
                then
                    'too few reference cycles above {{ (100 * var('knee_floor_share')) | int }} %'
                    || ' of the first capacity'
            else 'the fade speeds up nowhere'
        end as knee_reason

    from records
    left join knees on records.equipment_id = knees.equipment_id
    left join judged on records.equipment_id = judged.equipment_id
    left join curves as lines on records.equipment_id = lines.equipment_id

)

select * from final
