{{ config(materialized='table') }}
{%- set penalty = var('knee_parameter_penalty') -%}
with

points as (

    select * from {{ ref('int_capacity_points') }}

),

fits as (

    select * from {{ ref('int_capacity_breaks') }}

),

-- One row a cell of what all its fits share.
curves as (

    select
        cell_number,
        max(bins) as bins,
        max(total_1) as total_1,
        max(initial_ah) as initial_ah,
        max(first_position) as first_position,
        max(span) as span,
        max(mean_u) as mean_u,
        max(start_u) as start_u,
        max(mean_ah) as mean_ah,
        max(norm_x) as norm_x,
        max(y1) as y1

    from points
    group by cell_number

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
        partition by cell_number order by squared_error, parameters, base
    ) = 1

),

left_over as (

    select
        points.cell_number,
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
        on points.cell_number = closest.cell_number and points.base = closest.base

),

neighbours as (

    select
        *,
        lead(z) over (partition by cell_number order by bin_number) as next_z

    from left_over

),

-- Lag-1 autocorrelation; fitting takes about 2 / n of it away.
correlations as (

    select
        neighbours.cell_number,
        least(
            greatest(
                coalesce(
                    sum(neighbours.z * neighbours.next_z)
                    / nullif(sum(neighbours.z * neighbours.z), 0.0), 0.0
                ) + 2.0 / count(*), 0.0
            ), 0.95
        ) as rho,
        -- the fit of the breaks takes about one in n of it for each parameter
        least(
            greatest(
                coalesce(
                    sum(neighbours.z * neighbours.next_z)
                    / nullif(sum(neighbours.z * neighbours.z), 0.0), 0.0
                )
                + 1.0 * max(closest.parameters) / count(*),
                0.0
            ), 0.95
        ) as residual_correlation

    from neighbours
    inner join closest on neighbours.cell_number = closest.cell_number
    group by neighbours.cell_number

),

-- Two breaks follow a swing that no knee has: what one leaves shows how far such swings go.
single_errors as (

    select
        cell_number,
        min(squared_error) as single_error

    from knee_fits
    where fit = 'one_break'
    group by cell_number

),

-- Points that follow one another count for less: n (1 - rho) / (1 + rho) independent ones.
noise as (

    select
        curves.cell_number,
        greatest(curves.bins * (1.0 - correlations.rho) / (1.0 + correlations.rho), 12.0)
            as effective_points,
        greatest(
            closest.squared_error / (
                greatest(curves.bins * (1.0 - correlations.rho) / (1.0 + correlations.rho), 12.0)
                - closest.parameters
            ),
            power({{ var('knee_resolution_share') }} * curves.initial_ah, 2)
        ) as variance,
        correlations.residual_correlation,
        -- Where the breaks lie is as uncertain as the sums that place them, whose variance is
        -- (1 + rho) / (1 - rho) times as large where the noise hangs together.
        case
            when correlations.residual_correlation > {{ var('knee_doubtful_correlation') }}
                then coalesce(single_errors.single_error, closest.squared_error)
            else closest.squared_error
        end
        / (curves.bins - closest.parameters)
        * (1.0 + correlations.residual_correlation)
        / (1.0 - correlations.residual_correlation) as place_variance,
        -- independent points that the fit leaves over
        greatest(
            curves.bins * (1.0 - correlations.residual_correlation)
            / (1.0 + correlations.residual_correlation) - closest.parameters,
            2.0
        ) as spare_points

    from curves
    left join single_errors on curves.cell_number = single_errors.cell_number
    inner join closest on curves.cell_number = closest.cell_number
    inner join correlations on curves.cell_number = correlations.cell_number

),

criteria as (

    select
        fits.*,
        noise.variance,
        -- with few of them a variance may be larger than it looks: about the square of Student's t
        -- over that of the normal distribution, at 95 %
        noise.place_variance
        * (1.0 + 3.0 / noise.spare_points + 12.0 / power(noise.spare_points, 3)) as place_variance,
        noise.residual_correlation,
        fits.squared_error / noise.variance + {{ penalty }} * fits.parameters as criterion

    from fits
    inner join noise on fits.cell_number = noise.cell_number

),

best as (

    select *
    from criteria
    where fit in ('one_break', 'two_breaks')
    qualify row_number() over (
        partition by cell_number order by criterion, parameters, base
    ) = 1

),

smooth as (

    select
        cell_number,
        base,
        criterion

    from criteria
    where fit = 'line'
    qualify row_number() over (
        partition by cell_number order by criterion, parameters, base
    ) = 1

),

others as (

    select
        cell_number,
        min(case when fit = 'line' and base = 0 then squared_error end)
            as straight_error,
        min(case when fit = 'step' then criterion end) as step_criterion,
        min(case when fit = 'step' then squared_error end) as step_error,
        min(case when fit = 'jump' then criterion end) as jump_criterion,
        min(case when fit = 'jump' then squared_error end) as jump_error,
        min(case when fit = 'slowing' then criterion end) as slowing_criterion

    from criteria
    group by cell_number

),

measured as (

    select
        best.*,
        smooth.base as smooth_base,
        smooth.criterion as smooth_criterion,
        -- the root rises where the others' terms bend the curve up
        case when smooth.base = 1 then -smooth_term.y2 else smooth_term.y2 end > 0
            as is_smooth_slowing,
        others.step_criterion,
        others.step_error,
        others.jump_criterion,
        others.jump_error,
        others.slowing_criterion,
        curves.initial_ah,
        curves.first_position,
        curves.span,
        curves.mean_u,
        curves.start_u,
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
    inner join others on best.cell_number = others.cell_number
    inner join curves on best.cell_number = curves.cell_number
    inner join smooth on best.cell_number = smooth.cell_number
    inner join points as smooth_term
        on
            smooth.cell_number = smooth_term.cell_number
            and smooth.base = smooth_term.base
            and smooth_term.bin_number = 1
    inner join points as term
        on
            best.cell_number = term.cell_number
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

-- With a term the pace before the onset is not one: of its average and the last, the faster.
averages as (

    select
        *,
        (
            level_ah
            - line_coefficient * mean_u / norm_x
            + term_coefficient * ({{ knee_term('0.0') }} - mean_g + g1 * mean_u / norm_x)
            - onset_ah
        ) / (u_1 * span) as mean_fade_before

    from paces

),

judged as (

    select
        *,
        case
            when
                least(step_error, coalesce(jump_error, step_error))
                < {{ var('knee_step_error_share') }} * squared_error
                and least(step_criterion, coalesce(jump_criterion, step_criterion))
                < least(smooth_criterion, coalesce(slowing_criterion, smooth_criterion))
                then
                    case
                        when jump_criterion < step_criterion
                            then 1
                        else 2
                    end
            when f_statistic < {{ var('knee_min_f') }} then 3
            when
                least(smooth_criterion, coalesce(slowing_criterion, smooth_criterion))
                < criterion - {{ var('knee_smooth_margin') }}
                and coalesce(step_criterion >= smooth_criterion, true)
                then
                    case
                        when is_smooth_slowing or slowing_criterion < smooth_criterion
                            then 4
                        when smooth_base = 2
                            then 5
                        when smooth_base = 0 then 3
                        else 6
                    end
            when step_criterion < criterion - {{ var('knee_step_margin') }} then 2
            when
                jump_criterion < criterion - {{ var('knee_jump_margin') }}
                and jump_error < {{ var('knee_jump_error_share') }} * squared_error
                then 1
            when fade_after <= 0 then 7
            when
                greatest(fade_before, mean_fade_before)
                < -{{ var('knee_rise_share') }} * fade_after
                then 8
            when fade_after < {{ var('knee_slope_ratio') }} * fade_before
                then 9
            when
                (fade_after - fade_before) * (1.0 - u_2) * span
                < {{ var('knee_loss_share') }} * initial_ah
                then 10
        end as reason_number

    from averages

),

final as (

    select
        cell_number,
        base,
        parameters,
        squared_error,
        variance,
        place_variance,
        residual_correlation,
        at_1,
        at_2,
        u_1,
        u_2,
        mean_u,
        first_position,
        span,
        onset_ah,
        point_ah,
        fade_before,
        fade_between,
        fade_after,
        f_statistic,
        reason_number

    from judged

)

select * from final
