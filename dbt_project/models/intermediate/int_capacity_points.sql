{{ config(materialized='table') }}
{%- set tail = var('knee_tail_share') -%}
with

health as (

    select * from {{ ref('battery_health') }}
    where is_reference and capacity_ah is not null

),

cells as (

    select distinct equipment_id from health

),

numbered_cells as (

    select
        equipment_id,
        row_number() over (order by equipment_id) as cell_number

    from cells

),

ranked as (

    select
        numbered_cells.cell_number,
        health.cycle_number,
        health.capacity_ah,
        count(*) over cell as cycles,
        row_number() over (
            partition by numbered_cells.cell_number order by health.cycle_number desc
        ) as from_end,
        cast(floor({{ tail }} * count(*) over cell) as bigint) as tail_cycles

    from health
    inner join numbered_cells on health.equipment_id = numbered_cells.equipment_id
    window cell as (partition by numbered_cells.cell_number)

),

-- Few points a cell: what follows compares every pair of them.
widths as (

    select
        *,
        greatest(
            {{ var('knee_bin_cycles') }},
            cast(ceil(1.0 * tail_cycles / {{ var('knee_tail_points') }}) as bigint)
        ) as tail_width,
        greatest(
            {{ var('knee_bin_cycles') }},
            cast(
                ceil(1.0 * (cycles - tail_cycles) / {{ var('knee_body_points') }}) as bigint
            )
        ) as body_width

    from ranked
    where cycles >= {{ var('knee_min_cycles') }}

),

-- Counted from the end, so that the last points are whole. Odd widths, because the median of an
-- even number of cycles would turn a step inside of it into two.
binned as (

    select
        *,
        case
            when from_end <= tail_cycles
                then floor((from_end - 1) / (tail_width + 1 - mod(tail_width, 2)))
            else
                1000 + floor(
                    (from_end - 1 - tail_cycles) / (body_width + 1 - mod(body_width, 2))
                )
        end as bin_from_end

    from widths

),

bins as (

    select
        cell_number,
        bin_from_end,
        cast(count(*) as {{ float_type() }}) as w,
        avg(cycle_number) as position,
        min(cycle_number) as first_cycle,
        {{ collect('capacity_ah') }} as capacities

    from binned
    group by cell_number, bin_from_end

),

medians as (

    select
        cell_number,
        w,
        position,
        min(first_cycle) over (partition by cell_number) as first_cycle,
        {{ array_median('capacities') }} as y,
        row_number() over (partition by cell_number order by position) as bin_number

    from bins
    where w >= {{ var('knee_bin_cycles') }}

),

starts as (

    select
        cell_number,
        {{ collect('y') }} as first_capacities

    from medians
    where bin_number <= 3
    group by cell_number

),

initial as (

    select
        cell_number,
        {{ array_median('first_capacities') }} as initial_ah

    from starts

),

with_floor as (

    select
        medians.*,
        initial.initial_ah,
        min(
            case
                when medians.y < {{ var('knee_floor_share') }} * initial.initial_ah
                    then medians.bin_number
            end
        ) over (partition by medians.cell_number) as first_below

    from medians
    inner join initial on medians.cell_number = initial.cell_number

),

-- A cell that is used up fades less and less: that end would bend the fit.
kept as (

    select
        *,
        count(*) over cell as bins,
        sum(w) over cell as total_1,
        min(position) over cell as first_position,
        max(position) over cell - min(position) over cell as span,
        sum(w * y) over cell / sum(w) over cell as mean_ah

    from with_floor
    where first_below is null or bin_number < first_below
    window cell as (partition by cell_number)

),

-- From 0 to 1 over the record, and centred: the sums below keep their precision.
scaled as (

    select
        *,
        (position - first_position) / span as u,
        -- where the first point lies after the record's start
        (first_position - first_cycle + 1.0) / span as start_u

    from kept
    where bins >= {{ var('knee_min_points') }}

),

centred as (

    select
        *,
        sum(w * u) over (partition by cell_number) / total_1 as mean_u,
        u - sum(w * u) over (partition by cell_number) / total_1 as x

    from scaled

),

normed as (

    select
        *,
        sqrt(sum(w * x * x) over (partition by cell_number)) as norm_x,
        sum(w * x * (y - mean_ah)) over (partition by cell_number)
        / sqrt(sum(w * x * x) over (partition by cell_number)) as y1

    from centred

),

with_bases as (

    select
        normed.*,
        base

    from normed
    cross join {{ unnest_as(knee_base_numbers(), 'base') }}

),

with_terms as (

    select
        *,
        {{ knee_term('u', 'searched') }} as is_searched,
        case when base = 0 then 0 else 1 end as terms,
        {{ knee_term('u', 'first_break') }} as first_break,
        {{ knee_term('u') }} as g

    from with_bases

),

terms_centred as (

    select
        *,
        sum(w * g) over cell / total_1 as mean_g,
        sum(w * g * x) over cell / norm_x as g1

    from with_terms
    window cell as (partition by cell_number, base)

),

terms_normed as (

    select
        *,
        sqrt(sum(w * power(g - mean_g - g1 * x / norm_x, 2)) over cell) as norm_g

    from terms_centred
    window cell as (partition by cell_number, base)

),

with_q as (

    select
        *,
        case when terms = 0 then 0.0 else (g - mean_g - g1 * x / norm_x) / norm_g end as q

    from terms_normed

),

residuals as (

    select
        *,
        sum(w * q * (y - mean_ah)) over cell as y2,
        y - mean_ah - y1 * x / norm_x - q * sum(w * q * (y - mean_ah)) over cell as r

    from with_q
    window cell as (partition by cell_number, base)

),

-- Everything to the right of a point.
sums as (

    select
        *,
        lead(x) over bins_in_order as next_x,
        lag(x) over bins_in_order as previous_x,
        sum(w * r * r) over cell as line_error,
        coalesce(sum(w) over beyond, 0.0) as sum_1,
        coalesce(sum(w * x) over beyond, 0.0) as sum_x,
        coalesce(sum(w * x * x) over beyond, 0.0) as sum_xx,
        coalesce(sum(w * q) over beyond, 0.0) as sum_q,
        coalesce(sum(w * q * x) over beyond, 0.0) as sum_qx,
        coalesce(sum(w * r) over beyond, 0.0) as sum_r,
        coalesce(sum(w * r * x) over beyond, 0.0) as sum_rx

    from residuals
    window
        cell as (partition by cell_number, base),
        bins_in_order as (partition by cell_number, base order by bin_number),
        beyond as (
            partition by cell_number, base
            order by bin_number
            rows between 1 following and unbounded following
        )

),

points as (

    select
        cell_number,
        base,
        is_searched,
        terms,
        bin_number,
        bins,
        w,
        position,
        y,
        initial_ah,
        first_position,
        span,
        mean_u,
        start_u,
        mean_ah,
        total_1,
        u,
        x,
        next_x,
        previous_x,
        norm_x,
        y1,
        mean_g,
        g1,
        norm_g,
        q,
        y2,
        r,
        line_error,
        sum_1,
        sum_x,
        sum_xx,
        sum_q,
        sum_qx,
        sum_r,
        sum_rx,
        is_searched
        and bin_number >= 3
        and bins - bin_number >= 3
        and u >= greatest({{ var('knee_first_share') }}, first_break)
        and total_1 - sum_1 >= {{ var('knee_cycles_before') }}
        and sum_1 >= {{ var('knee_cycles_after') }} as is_candidate

    from sums
    -- the shapes that are not searched give no more than their error
    where is_searched or bin_number = 1

),

final as (

    select
        numbered_cells.equipment_id,
        points.*

    from points
    inner join numbered_cells on points.cell_number = numbered_cells.cell_number

)

select * from final
