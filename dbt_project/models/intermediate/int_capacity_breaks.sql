{{ config(materialized='table') }}
with

points as (

    select * from {{ ref('int_capacity_points') }}

),

-- A break at each point that has enough on both sides.
candidates as (

    select
        *,
        x as at_x,
        {{ hinge_products('x') }}

    from points
    where is_candidate

),

lines as (

    select
        cell_number,
        base,
        max(terms) as terms,
        max(line_error) as squared_error

    from points
    group by cell_number, base

),

single_fits as (

    select
        cell_number,
        base,
        bin_number,
        at_x,
        cy / cc as change,
        line_error - cy * cy / cc as squared_error

    from candidates
    where cc > 1e-12 * sum_1

),

-- Negative error: max_by is what both warehouses have.
best_singles as (

    select
        cell_number,
        base,
        max_by(bin_number, case when change < 0 then -squared_error end) as bin_number,
        min(case when change > 0 then squared_error end) as slowing_error

    from single_fits
    group by cell_number, base

),

pair_products as (

    select
        one.cell_number,
        one.base,
        one.bin_number as first_bin,
        two.bin_number as second_bin,
        one.line_error,
        one.cy as cy1,
        one.cc as cc1,
        two.cy as cy2,
        two.cc as cc2,
        {{ hinges_product('one', 'two') }} as c12

    from candidates as one
    inner join candidates as two
        on
            one.cell_number = two.cell_number
            and one.base = two.base
            and two.bin_number - one.bin_number >= 3
            and two.at_x - one.at_x >= {{ var('knee_gap_share') }}

),

pair_fits as (

    select
        *,
        {{ pair_error() }} as squared_error

    from pair_products
    where {{ pair_speeds_up() }}

),

best_pairs as (

    select
        cell_number,
        base,
        max_by(first_bin, -squared_error) as first_bin,
        max_by(second_bin, -squared_error) as second_bin

    from pair_fits
    group by cell_number, base

),

-- Quarters of the way to the next point, around the best breaks.
finer as (

    select
        cell_number,
        base,
        bin_number,
        terms,
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
        (next_x - x) / 4.0 as step_x,
        x + quarter * (next_x - x) / 4.0 as at_x

    from candidates
    cross join {{ unnest_as('[0, 1, 2, 3]', 'quarter') }}

),

finer_candidates as (

    select
        *,
        {{ hinge_products('at_x') }}

    from finer

),

finer_singles as (

    select
        finer_candidates.*,
        finer_candidates.line_error - power(finer_candidates.cy, 2) / finer_candidates.cc
            as squared_error

    from finer_candidates
    inner join best_singles
        on
            finer_candidates.cell_number = best_singles.cell_number
            and finer_candidates.base = best_singles.base
            and abs(finer_candidates.bin_number - best_singles.bin_number) <= 1
    where finer_candidates.cy < 0 and finer_candidates.cc > 1e-12 * finer_candidates.sum_1

),

finest_singles as (

    select *
    from finer_singles
    qualify row_number() over (
        partition by cell_number, base order by squared_error, at_x
    ) = 1

),

finer_pairs as (

    select
        one.cell_number,
        one.base,
        one.terms,
        one.line_error,
        one.at_x as at_1,
        one.h0 as h0_1,
        one.h1 as h1_1,
        one.h2 as h2_1,
        one.cy as cy1,
        one.cc as cc1,
        two.at_x as at_2,
        two.h0 as h0_2,
        two.h1 as h1_2,
        two.h2 as h2_2,
        two.cy as cy2,
        two.cc as cc2,
        {{ hinges_product('one', 'two') }} as c12

    from best_pairs
    inner join finer_candidates as one
        on
            best_pairs.cell_number = one.cell_number
            and best_pairs.base = one.base
            and abs(one.bin_number - best_pairs.first_bin) <= 1
    inner join finer_candidates as two
        on
            best_pairs.cell_number = two.cell_number
            and best_pairs.base = two.base
            and abs(two.bin_number - best_pairs.second_bin) <= 1
            and two.at_x - one.at_x >= 0.7 * {{ var('knee_gap_share') }}

),

finer_pair_fits as (

    select
        *,
        (cy1 * cc2 - cy2 * c12) / (cc1 * cc2 - c12 * c12) as change_1,
        (cy2 * cc1 - cy1 * c12) / (cc1 * cc2 - c12 * c12) as change_2,
        {{ pair_error() }} as squared_error

    from finer_pairs
    where {{ pair_speeds_up() }}

),

finest_pairs as (

    select *
    from finer_pair_fits
    qualify row_number() over (
        partition by cell_number, base order by squared_error, at_1, at_2
    ) = 1

),

-- What a knee is not: a step, and two lines that do not meet.
step_products as (

    select
        cell_number,
        base,
        terms,
        bin_number,
        x,
        next_x - x as gap,
        line_error,
        bin_number >= 4 and bins - bin_number >= 4 as may_jump,
        sum_r as ty,
        sum_1 - sum_1 * sum_1 / total_1 - power(sum_x / norm_x, 2) - sum_q * sum_q as tt,
        sum_x - x * sum_1
        - sum_1 / total_1 * (sum_x - x * sum_1)
        - sum_x / norm_x * (sum_xx - x * sum_x) / norm_x
        - sum_q * (sum_qx - x * sum_q) as th,
        {{ hinge_products('x') }}

    from points
    where is_searched and bin_number < bins

),

steps as (

    select
        cell_number,
        base,
        max(terms) as terms,
        -- the first points may belong to a start that is over soon
        min(case when bin_number >= 3 and tt > 1e-9 then line_error - ty * ty / tt end)
            as step_error,
        min(
            case
                when
                    may_jump and tt > 1e-9 and tt * cc - th * th > 1e-9 * tt * cc
                    -- lines that meet within the next points are a bend
                    and not (
                        cy * tt < ty * th
                        and (ty * cc - cy * th)
                        between -gap * (ty * th - cy * tt) and 2.0 * gap * (ty * th - cy * tt)
                    )
                    then
                        line_error
                        - (ty * ty * cc - 2.0 * ty * cy * th + cy * cy * tt) / (tt * cc - th * th)
            end
        ) as jump_error

    from step_products
    group by cell_number, base

),

fits_without_break as (

    select
        cell_number,
        base,
        'line' as fit,
        2 + terms as parameters,
        squared_error

    from lines

    union all

    select
        cell_number,
        base,
        'step' as fit,
        4 + terms as parameters,
        step_error as squared_error

    from steps

    union all

    select
        cell_number,
        base,
        'jump' as fit,
        5 + terms as parameters,
        jump_error as squared_error

    from steps

    union all

    select
        best_singles.cell_number,
        best_singles.base,
        'slowing' as fit,
        4 + lines.terms as parameters,
        best_singles.slowing_error as squared_error

    from best_singles
    inner join lines
        on best_singles.cell_number = lines.cell_number and best_singles.base = lines.base

),

fits as (

    select
        cell_number,
        base,
        fit,
        parameters,
        squared_error,
        cast(null as {{ float_type() }}) as at_1,
        cast(null as {{ float_type() }}) as h0_1,
        cast(null as {{ float_type() }}) as h1_1,
        cast(null as {{ float_type() }}) as h2_1,
        cast(null as {{ float_type() }}) as change_1,
        cast(null as {{ float_type() }}) as at_2,
        cast(null as {{ float_type() }}) as h0_2,
        cast(null as {{ float_type() }}) as h1_2,
        cast(null as {{ float_type() }}) as h2_2,
        cast(null as {{ float_type() }}) as change_2

    from fits_without_break

    union all

    select
        cell_number,
        base,
        'one_break' as fit,
        4 + terms as parameters,
        squared_error,
        at_x as at_1,
        h0 as h0_1,
        h1 as h1_1,
        h2 as h2_1,
        cy / cc as change_1,
        null as at_2,
        null as h0_2,
        null as h1_2,
        null as h2_2,
        null as change_2

    from finest_singles

    union all

    select
        cell_number,
        base,
        'two_breaks' as fit,
        6 + terms as parameters,
        squared_error,
        at_1,
        h0_1,
        h1_1,
        h2_1,
        change_1,
        at_2,
        h0_2,
        h1_2,
        h2_2,
        change_2

    from finest_pairs

),

final as (

    select
        cell_number,
        base,
        fit,
        parameters,
        -- rounding may leave less than nothing
        greatest(squared_error, 0.0) as squared_error,
        at_1,
        h0_1,
        h1_1,
        h2_1,
        change_1,
        at_2,
        h0_2,
        h1_2,
        h2_2,
        change_2

    from fits
    where squared_error is not null

)

select * from final
