{%- set min_cycles = var('knee_min_cycles') -%}
with

health as (

    select * from {{ ref('battery_health') }}
    where is_valid and discharge_median_ah is not null

),

-- Centred on the cell's mean cycle, so that the sums below keep their precision.
points as (

    select
        equipment_id,
        cycle_number,
        started_at,
        discharge_median_ah as y,
        cycle_number - avg(cycle_number) over (partition by equipment_id) as x

    from health

),

-- Sums of least squares left of each point (the point included) and over all points.
sums as (

    select
        equipment_id,
        cycle_number,
        started_at,
        y,
        count(*) over left_part as n1,
        sum(x) over left_part as sx1,
        sum(y) over left_part as sy1,
        sum(x * x) over left_part as sxx1,
        sum(x * y) over left_part as sxy1,
        sum(y * y) over left_part as syy1,
        count(*) over cell as n,
        sum(x) over cell as sx,
        sum(y) over cell as sy,
        sum(x * x) over cell as sxx,
        sum(x * y) over cell as sxy,
        sum(y * y) over cell as syy

    from points
    window
        cell as (partition by equipment_id),
        left_part as (
            partition by equipment_id
            order by cycle_number
            rows between unbounded preceding and current row
        )

),

moments as (

    select
        equipment_id,
        cycle_number,
        started_at,
        y,
        sxx1 - sx1 * sx1 / n1 as cxx1,
        sxy1 - sx1 * sy1 / n1 as cxy1,
        syy1 - sy1 * sy1 / n1 as cyy1,
        (sxx - sxx1) - (sx - sx1) * (sx - sx1) / (n - n1) as cxx2,
        (sxy - sxy1) - (sx - sx1) * (sy - sy1) / (n - n1) as cxy2,
        (syy - syy1) - (sy - sy1) * (sy - sy1) / (n - n1) as cyy2

    from sums
    where n1 >= {{ min_cycles }} and n - n1 >= {{ min_cycles }}

),

fits as (

    select
        equipment_id,
        cycle_number,
        started_at,
        y as knee_capacity_ah,
        cxy1 / nullif(cxx1, 0.0) as slope_before,
        cxy2 / nullif(cxx2, 0.0) as slope_after,
        (cyy1 - cxy1 * cxy1 / nullif(cxx1, 0.0)) + (cyy2 - cxy2 * cxy2 / nullif(cxx2, 0.0))
            as squared_error

    from moments

),

best as (

    select *
    from fits
    qualify row_number() over (
        partition by equipment_id
        order by squared_error asc nulls last, cycle_number asc
    ) = 1

),

final as (

    select
        equipment_id,
        cycle_number as knee_cycle,
        started_at as knee_at,
        knee_capacity_ah,
        -slope_before as fade_before_ah_per_cycle,
        -slope_after as fade_after_ah_per_cycle

    from best
    where
        slope_after < 0
        -- an even fade has a best break too, but no knee
        and slope_after <= {{ var('knee_slope_ratio') }} * slope_before

)

select * from final
