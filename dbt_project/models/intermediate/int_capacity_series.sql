-- Materialized: read by the end of life, the corrections and the health.
{{ config(materialized='table', cluster_by=clusters(['equipment_id'])) }}

with

cycles as (

    select * from {{ ref('battery_cycles') }}

),

with_throughput as (

    select
        *,
        sum(charge_ah + discharge_ah) over (
            partition by equipment_id
            order by cycle_number
            rows between unbounded preceding and current row
        ) as throughput_ah

    from cycles

),

valid_cycles as (

    select
        cycle_key,
        equipment_id,
        cycle_number,
        started_at,
        kind,
        capacity_ah,
        throughput_ah,
        discharge_rate_a,
        temperature_mean_c,
        -- what a cell does by a profile's changing current is not compared with constant current
        case when kind = 'drive' then 'drive' else 'full' end as course,
        cast(
            floor(ln(discharge_rate_a) / ln({{ var('like_rate_ratio') }}) + 0.5) as bigint
        ) as rate_class

    from with_throughput
    where is_valid and discharge_rate_a > 0.0

),

-- The rate at which most of the valid cycles were discharged ------------------------------------

rate_classes as (

    select
        equipment_id,
        course,
        rate_class,
        count(*) as class_cycles,
        {{ collect('discharge_rate_a') }} as rates

    from valid_cycles
    where kind <> 'formation'
    group by equipment_id, course, rate_class

),

reference_rates as (

    select
        equipment_id,
        course,
        {{ array_median('rates') }} as reference_rate_a

    from rate_classes
    qualify row_number() over (
        partition by equipment_id
        order by class_cycles desc, course desc, rate_class asc
    ) = 1

),

with_like_rate as (

    select
        valid_cycles.*,
        reference_rates.reference_rate_a,
        reference_rates.course as reference_course,
        valid_cycles.kind <> 'formation'
        and valid_cycles.course = reference_rates.course
        and valid_cycles.discharge_rate_a
        between reference_rates.reference_rate_a / {{ var('like_rate_ratio') }}
        and reference_rates.reference_rate_a * {{ var('like_rate_ratio') }} as is_like_rate

    from valid_cycles
    inner join reference_rates on valid_cycles.equipment_id = reference_rates.equipment_id

),

temperatures as (

    select
        equipment_id,
        {{ collect('temperature_mean_c') }} as temperatures

    from with_like_rate
    where is_like_rate
    group by equipment_id

),

reference_temperatures as (

    select
        equipment_id,
        {{ array_median('temperatures') }} as reference_temperature_c

    from temperatures

),

with_reference as (

    select
        with_like_rate.*,
        reference_temperatures.reference_temperature_c,
        with_like_rate.is_like_rate and coalesce(
            abs(with_like_rate.temperature_mean_c - reference_temperatures.reference_temperature_c)
            <= {{ var('like_temperature_k') }},
            true
        ) as is_reference,
        case
            when with_like_rate.kind = 'formation' then 'formation'
            when with_like_rate.course <> with_like_rate.reference_course
                then
                    case
                        when with_like_rate.course = 'drive'
                            then 'a drive profile; most are at constant current'
                        else 'constant current; most are drive profiles'
                    end
            when not with_like_rate.is_like_rate
                then
                    'at ' || {{ shown('with_like_rate.discharge_rate_a', 3) }}
                    || ' A; compared are cycles near '
                    || {{ shown('with_like_rate.reference_rate_a', 3) }} || ' A'
            when
                abs(
                    with_like_rate.temperature_mean_c
                    - reference_temperatures.reference_temperature_c
                ) > {{ var('like_temperature_k') }}
                then
                    'at ' || {{ shown('with_like_rate.temperature_mean_c', 1) }}
                    || ' °C; compared are cycles near '
                    || {{ shown('reference_temperatures.reference_temperature_c', 1) }} || ' °C'
        end as reference_reason

    from with_like_rate
    left join reference_temperatures
        on with_like_rate.equipment_id = reference_temperatures.equipment_id

),

-- Neighbours among the references: two on each side, as far as they lie within the reach --------

reference_cycles as (

    select
        *,
        {{ var('reference_reach_cycles') }} * 2.0 * first_value(capacity_ah) over life as reach_ah,
        throughput_ah - first_value(throughput_ah) over life as since_first_ah,
        row_number() over life as reference_number

    from with_reference
    where is_reference
    window life as (partition by equipment_id order by cycle_number)

),

-- The first is a formation or partial cycle too often, so cycles 2 to 6 come first; a cell whose
-- check-ups come seldom has only those within the reach of the first.
initial_values as (

    select
        equipment_id,
        {{ collect('case when cycle_number between 2 and 6 then capacity_ah end') }} as early,
        {{ collect(
            'case when reference_number <= 5 and since_first_ah <= reach_ah then capacity_ah end'
        ) }} as first_references

    from reference_cycles
    group by equipment_id

),

initial_capacities as (

    select
        equipment_id,
        coalesce({{ array_median('early') }}, {{ array_median('first_references') }})
            as initial_capacity_ah

    from initial_values

),

neighbours as (

    select
        cycle_key,
        {% for offset in [2, 1] -%}
            case
                when throughput_ah - lag(throughput_ah, {{ offset }}) over life <= reach_ah
                    then lag(capacity_ah, {{ offset }}) over life
            end as before_{{ offset }}_ah,
            case
                when lead(throughput_ah, {{ offset }}) over life - throughput_ah <= reach_ah
                    then lead(capacity_ah, {{ offset }}) over life
            end as after_{{ offset }}_ah,
        {% endfor -%}
        capacity_ah,
        lead(cycle_number, 2) over life is not null
        or lead(throughput_ah) over life - throughput_ah > reach_ah as has_later

    from reference_cycles
    window life as (partition by equipment_id order by cycle_number)

),

windows as (

    select
        cycle_key,
        has_later,
        {{ known_values([
            'before_2_ah', 'before_1_ah', 'capacity_ah', 'after_1_ah', 'after_2_ah'
        ]) }} as capacities

    from neighbours

),

medians as (

    select
        cycle_key,
        has_later,
        {{ array_median('capacities') }} as capacity_median_ah,
        {{ array_size('capacities') }} as median_cycles

    from windows

),

final as (

    select
        with_reference.cycle_key,
        with_reference.equipment_id,
        with_reference.cycle_number,
        with_reference.started_at,
        with_reference.capacity_ah,
        with_reference.throughput_ah,
        with_reference.discharge_rate_a,
        with_reference.temperature_mean_c,
        with_reference.is_reference,
        with_reference.reference_reason,
        with_reference.reference_rate_a,
        with_reference.reference_temperature_c,
        initial_capacities.initial_capacity_ah,
        medians.capacity_median_ah,
        medians.median_cycles,
        -- the last ones see a shorter window until more arrive: they decide nothing
        coalesce(medians.has_later, false) as is_decisive

    from with_reference
    left join initial_capacities on with_reference.equipment_id = initial_capacities.equipment_id
    left join medians on with_reference.cycle_key = medians.cycle_key

)

select * from final
