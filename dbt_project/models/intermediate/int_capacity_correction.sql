with

series as (

    select * from {{ ref('int_capacity_series') }}

),

-- Differences between neighbouring valid cycles.
raw_differences as (

    select
        equipment_id,
        capacity_ah - lag(capacity_ah) over life as dq,
        coalesce(temperature_mean_c - lag(temperature_mean_c) over life, 0.0) as dt,
        ln(discharge_rate_a) - ln(lag(discharge_rate_a) over life) as dr,
        throughput_ah - lag(throughput_ah) over life as apart_ah,
        {{ var('reference_reach_cycles') }} * 2.0 * initial_capacity_ah as reach_ah

    from series
    window life as (partition by equipment_id order by cycle_number)

),

-- The fade from one cycle to the next is the same with and without a change: their median is taken
-- off.
fades as (

    select
        equipment_id,
        {{ collect('dq') }} as values_dq

    from raw_differences
    where dq is not null and apart_ah <= reach_ah
    group by equipment_id

),

usual_fades as (

    select
        equipment_id,
        {{ array_median('values_dq') }} as usual_dq

    from fades

),

differences as (

    select
        raw_differences.equipment_id,
        raw_differences.dq - usual_fades.usual_dq as dq,
        raw_differences.dt,
        raw_differences.dr

    from raw_differences
    inner join usual_fades on raw_differences.equipment_id = usual_fades.equipment_id
    where
        raw_differences.dq is not null
        and raw_differences.apart_ah <= raw_differences.reach_ah

),

sums as (

    select
        equipment_id,
        count(*) as n,
        sum(dt * dt) as tt,
        sum(dr * dr) as rr,
        sum(dt * dr) as tr,
        sum(dt * dq) as tq,
        sum(dr * dq) as rq,
        sum(dq * dq) as qq,
        max(abs(dt)) as largest_dt,
        max(abs(dr)) as largest_dr

    from differences
    group by equipment_id

),

-- Least squares without a constant; what does not vary is left out.
with_use as (

    select
        *,
        -- a cell that is warmer because its rate is higher: the two can't be told apart, and the
        -- rate stands for both
        largest_dt >= {{ var('correction_least_k') }}
        and not (
            largest_dr >= ln({{ var('like_rate_ratio') }})
            and tr * tr > {{ var('correction_most_correlation') }} * tt * rr
        ) as uses_temperature,
        largest_dr >= ln({{ var('like_rate_ratio') }}) as uses_rate,
        tt * rr - tr * tr as determinant

    from sums

),

coefficients as (

    select
        *,
        case
            when uses_temperature and uses_rate
                then (tq * rr - rq * tr) / determinant
            when uses_temperature and not uses_rate then tq / nullif(tt, 0.0)
        end as temperature_coefficient_ah_per_k,
        case
            when uses_temperature and uses_rate
                then (rq * tt - tq * tr) / determinant
            when uses_rate and not uses_temperature then rq / nullif(rr, 0.0)
        end as rate_coefficient_ah

    from with_use

),

with_share as (

    select
        *,
        (
            coalesce(temperature_coefficient_ah_per_k, 0.0) * tq
            + coalesce(rate_coefficient_ah, 0.0) * rq
        ) / nullif(qq, 0.0) as explained_share

    from coefficients

),

final as (

    -- rounded: the last digits of a sum depend on the order of addition
    select
        equipment_id,
        round(temperature_coefficient_ah_per_k, 9) as temperature_coefficient_ah_per_k,
        round(rate_coefficient_ah, 9) as rate_coefficient_ah,
        round(explained_share, 9) as explained_share

    from with_share
    where n >= 5 and explained_share >= {{ var('correction_least_share') }}

)

select * from final
