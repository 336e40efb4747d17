{{ config(materialized='table') }}
{%- set tolerance = var('ica_current_tolerance') -%}
with

readings as (

    select * from {{ ref('battery_features') }}
    where equipment_type = 'battery_cell' and is_impedance is not true

),

-- Numbers are sorted faster than texts: they stand for the steps and stages from here on.
steps as (

    select
        *,
        row_number() over (order by step_key) as step_number

    from {{ ref('int_ica_steps') }}
    where is_long_enough

),

step_readings as (

    select
        steps.step_number,
        readings.reading_seq,
        readings.voltage_v,
        abs(readings.current_a) as current_abs_a,
        readings.time_delta_s,
        case
            when steps.direction = 'charge' then readings.dq_charge_ah
            else readings.dq_discharge_ah
        end as dq_ah,
        -- another constant current: a stage of its own, whether or not it has a step of its own
        case
            when
                abs(readings.current_a - lag(readings.current_a) over step_order)
                > {{ tolerance }} * steps.current_max_abs_a
                then 1
            else 0
        end as is_jump,
        case
            when readings.voltage_v = lag(readings.voltage_v) over step_order then 0 else 1
        end as is_change,
        -- third differences, one and the next: white noise of variance s2 makes their product
        -- -15 s2 on average, and little of the curve is left in it
        (
            readings.voltage_v
            - 3.0 * lag(readings.voltage_v) over step_order
            + 3.0 * lag(readings.voltage_v, 2) over step_order
            - lag(readings.voltage_v, 3) over step_order
        ) * (
            lag(readings.voltage_v) over step_order
            - 3.0 * lag(readings.voltage_v, 2) over step_order
            + 3.0 * lag(readings.voltage_v, 3) over step_order
            - lag(readings.voltage_v, 4) over step_order
        ) as difference_product

    from readings
    inner join steps
        on
            readings.test_key = steps.test_key
            and readings.step_run = steps.step_run
    window step_order as (partition by steps.step_number order by readings.reading_seq)

),

with_stage as (

    select
        step_number,
        voltage_v,
        current_abs_a,
        difference_product,
        sum(is_jump) over running as stage,
        sum(greatest(is_jump, is_change)) over running as knot,
        sum(dq_ah) over running as charge_ah,
        sum(coalesce(time_delta_s, 0.0)) over running as elapsed_s

    from step_readings
    window running as (
        partition by step_number
        order by reading_seq
        rows between unbounded preceding and current row
    )

),

-- What the voltage does in a stage's first minutes is the answer to the change of current.
settled as (

    select
        *,
        elapsed_s - min(elapsed_s) over (partition by step_number, stage) as stage_elapsed_s

    from with_stage

),

-- Readings that repeat the voltage are one reading in their middle: where the voltage has coarse
-- steps, it has its rounded value there.
knots as (

    select
        step_number,
        stage,
        knot,
        min(current_abs_a) as current_min_a,
        max(current_abs_a) as current_a,
        0.5 * (min(charge_ah) + max(charge_ah)) as charge_ah,
        max(voltage_v) as voltage_v,
        sum(difference_product) as difference_product,
        count(*) as readings

    from settled
    where stage_elapsed_s >= {{ var('ica_settled_s') }}
    group by step_number, stage, knot

),

with_neighbours as (

    select
        *,
        max(current_a) over (partition by step_number, stage) as stage_current_a,
        lag(charge_ah) over stage_order as previous_charge_ah,
        lag(voltage_v) over stage_order as previous_voltage_v,
        lead(charge_ah) over stage_order as next_charge_ah,
        lead(voltage_v) over stage_order as next_voltage_v

    from knots
    window stage_order as (partition by step_number, stage order by knot)

),

-- Only the constant current: not the voltage being held after it.
constant_current as (

    select
        *,
        min(charge_ah) over (partition by step_number, stage) as charge_start_ah,
        max(charge_ah) over (partition by step_number, stage) as charge_end_ah,
        coalesce(
            sum(
                0.5 * (voltage_v + previous_voltage_v) * (charge_ah - previous_charge_ah)
            ) over (
                partition by step_number, stage
                order by knot
                rows between unbounded preceding and current row
            ),
            0.0
        ) as energy_wh,
        -- from the line between the neighbours
        voltage_v - (
            previous_voltage_v * (next_charge_ah - charge_ah)
            + next_voltage_v * (charge_ah - previous_charge_ah)
        ) / nullif(next_charge_ah - previous_charge_ah, 0.0) as distance_v

    from with_neighbours
    where current_min_a >= (1.0 - {{ tolerance }}) * stage_current_a

),

final as (

    select
        steps.step_key,
        cast(constant_current.step_number * 1000000 + constant_current.stage as bigint)
            as stage_number,
        cast(constant_current.stage + 1 as bigint) as stage,
        cast(constant_current.knot as bigint) as knot,
        constant_current.stage_current_a as current_a,
        constant_current.charge_ah,
        constant_current.charge_start_ah,
        constant_current.charge_end_ah,
        constant_current.voltage_v,
        constant_current.previous_charge_ah,
        constant_current.previous_voltage_v,
        constant_current.energy_wh,
        constant_current.distance_v,
        constant_current.difference_product,
        cast(constant_current.readings as bigint) as readings

    from constant_current
    inner join steps on constant_current.step_number = steps.step_number
    where
        constant_current.charge_end_ah - constant_current.charge_start_ah
        >= {{ var('ica_stage_min_share') }} * steps.capacity_ah

)

select * from final
