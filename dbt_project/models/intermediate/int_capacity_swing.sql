{{ config(materialized='table') }}
{#- Swings in the length of the record, in tenths: from one and a half to eight. -#}
{%- set tenths = '[' ~ (range(15, 81) | join(', ')) ~ ']' -%}
with

points as (

    select * from {{ ref('int_capacity_points') }}
    where base = 0

),

-- Knees with residuals that hang together.
doubtful as (

    select * from {{ ref('int_capacity_choice') }}
    where
        reason_number is null
        and residual_correlation > {{ var('knee_doubtful_correlation') }}

),

knees as (

    select
        points.*,
        doubtful.squared_error as plain_error

    from points
    inner join doubtful on points.cell_number = doubtful.cell_number

),

waves as (

    select
        *,
        tenth / 10.0 as swings,
        sin(2.0 * acos(-1.0) * tenth / 10.0 * u) as s,
        cos(2.0 * acos(-1.0) * tenth / 10.0 * u) as c

    from knees
    cross join {{ unnest_as(tenths, 'tenth') }}

),

-- Sine and cosine orthogonal to the line, and to each other, as int_capacity_points has its terms.
centred as (

    select
        *,
        sum(w * s) over wave / total_1 as mean_s,
        sum(w * s * x) over wave / norm_x as s1,
        sum(w * c) over wave / total_1 as mean_c,
        sum(w * c * x) over wave / norm_x as c1

    from waves
    window wave as (partition by cell_number, swings)

),

sines as (

    select
        *,
        sqrt(sum(w * power(s - mean_s - s1 * x / norm_x, 2)) over wave) as norm_s,
        (s - mean_s - s1 * x / norm_x)
        / sqrt(sum(w * power(s - mean_s - s1 * x / norm_x, 2)) over wave) as q_s

    from centred
    window wave as (partition by cell_number, swings)

),

with_product as (

    select
        *,
        c - mean_c - c1 * x / norm_x as line_free_c,
        sum(w * (c - mean_c - c1 * x / norm_x) * q_s) over wave as c_s

    from sines
    window wave as (partition by cell_number, swings)

),

cosines as (

    select
        *,
        sqrt(sum(w * power(line_free_c - c_s * q_s, 2)) over wave) as norm_c,
        (line_free_c - c_s * q_s)
        / sqrt(sum(w * power(line_free_c - c_s * q_s, 2)) over wave) as q_c

    from with_product
    window wave as (partition by cell_number, swings)

),

with_swing as (

    select
        *,
        sum(w * q_s * r) over wave as y_s,
        sum(w * q_c * r) over wave as y_c,
        r - q_s * sum(w * q_s * r) over wave - q_c * sum(w * q_c * r) over wave as left_over

    from cosines
    window wave as (partition by cell_number, swings)

),

-- Everything to the right of a point.
sums as (

    select
        *,
        sum(w * left_over * left_over) over wave as swing_error,
        coalesce(sum(w * q_s) over beyond, 0.0) as sum_s,
        coalesce(sum(w * q_s * x) over beyond, 0.0) as sum_sx,
        coalesce(sum(w * q_c) over beyond, 0.0) as sum_c,
        coalesce(sum(w * q_c * x) over beyond, 0.0) as sum_cx,
        coalesce(sum(w * left_over) over beyond, 0.0) as sum_l,
        coalesce(sum(w * left_over * x) over beyond, 0.0) as sum_lx

    from with_swing
    window
        wave as (partition by cell_number, swings),
        beyond as (
            partition by cell_number, swings
            order by bin_number
            rows between 1 following and unbounded following
        )

),

-- One break at each point and at quarters of the way to the next.
tried as (

    select
        *,
        x + quarter * (next_x - x) / 4.0 as at_x,
        (next_x - x) / 4.0 as reach

    from sums
    cross join {{ unnest_as('[0, 1, 2, 3]', 'quarter') }}
    where is_candidate

),

hinges as (

    select
        *,
        (sum_x - at_x * sum_1) / sqrt(total_1) as h0,
        (sum_xx - at_x * sum_x) / norm_x as h1,
        sum_sx - at_x * sum_s as h_s,
        sum_cx - at_x * sum_c as h_c,
        sum_lx - at_x * sum_l as cy,
        sum_xx - 2.0 * at_x * sum_x + at_x * at_x * sum_1
        - power((sum_x - at_x * sum_1) / sqrt(total_1), 2)
        - power((sum_xx - at_x * sum_x) / norm_x, 2)
        - power(sum_sx - at_x * sum_s, 2)
        - power(sum_cx - at_x * sum_c, 2) as cc

    from tried

),

fits as (

    select
        *,
        cy / cc as change,
        (y_s - cy / cc * h_s - (y_c - cy / cc * h_c) * c_s / norm_c) / norm_s as sine_ah,
        (y_c - cy / cc * h_c) / norm_c as cosine_ah,
        greatest(swing_error - cy * cy / cc, 0.0) as squared_error

    from hinges
    where cc > 1e-9 * sum_1 and cy < 0

),

with_lines as (

    select
        *,
        (y1 - change * h1 - sine_ah * s1 - cosine_ah * c1) / norm_x as slope,
        mean_ah - change * h0 / sqrt(total_1) - sine_ah * mean_s - cosine_ah * mean_c as level_ah,
        min(squared_error) over (partition by cell_number) as least_error

    from fits

),

best as (

    select *
    from with_lines
    where squared_error <= least_error
    qualify row_number() over (partition by cell_number order by swings, at_x) = 1

),

-- Two parameters of the line, two of the break, three of the swing.
likely as (

    select
        cell_number,
        min(at_x - reach) as low_x,
        max(at_x + reach) as high_x

    from with_lines
    where
        squared_error <= least_error + {{ var('knee_interval_chi2') }} * greatest(
            least_error / greatest(bins - 7, 2),
            power({{ var('knee_resolution_share') }} * initial_ah, 2)
        )
    group by cell_number

),

final as (

    select
        best.cell_number,
        best.swings,
        sqrt(power(best.sine_ah, 2) + power(best.cosine_ah, 2)) as amplitude_ah,
        best.squared_error,
        best.at_x + best.mean_u as break_u,
        likely.low_x + best.mean_u as low_u,
        likely.high_x + best.mean_u as high_u,
        best.level_ah + best.slope * best.at_x as break_ah,
        -best.slope / best.span as fade_before,
        -(best.slope + best.change) / best.span as fade_after

    from best
    inner join likely on best.cell_number = likely.cell_number
    where
        best.squared_error <= {{ var('knee_swing_error_share') }} * best.plain_error
        and best.slope + best.change < 0

)

select * from final
