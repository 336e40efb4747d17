{{ config(
    materialized=by_part('table'),
    meta={
        'part': 'equipment',
        'inputs': ['battery_features', 'int_ica_steps'],
        'number': 'stage_number // 1000000'
    }
) }}
{%- set tolerance = var('ica_current_tolerance') -%}
with

readings as (

    select * from {{ ref('battery_features') }}
    where
        equipment_type = 'battery_cell'
        and is_impedance is not true
        and {{ is_in_batch() }}

),

-- Numbers are sorted faster than texts: they stand for the steps and stages from here on.
steps as (

    select
        *,
        {{ numbers_taken() }} + row_number() over (order by step_key) as step_number

    from {{ ref('int_ica_steps') }}
    where is_long_enough and {{ is_in_batch() }}

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
        -- counted, not summed up: a count has 64 bits, a sum of whole numbers 128 on DuckDB
        count(case when is_jump = 1 then 1 end) over running as stage,
        count(case when is_jump = 1 or is_change = 1 then 1 end) over running as knot,
        sum(dq_ah) over running as charge_ah,
        sum(coalesce(time_delta_s, 0.0)) over running as elapsed_s

    from step_readings
    window running as (
        partition by step_number
        order by reading_seq
        rows between unbounded preceding and current row
    )

),

stage_starts as (

    select
        step_number,
        stage,
        min(elapsed_s) as start_s

    from with_stage
    group by step_number, stage

),

-- What the voltage does in a stage's first minutes is the answer to the change of current.
settled as (

    select with_stage.*

    from with_stage
    inner join stage_starts
        on
            with_stage.step_number = stage_starts.step_number
            and with_stage.stage = stage_starts.stage
    where with_stage.elapsed_s - stage_starts.start_s >= {{ var('ica_settled_s') }}

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

    select *
    from with_neighbours
    where current_min_a >= (1.0 - {{ tolerance }}) * stage_current_a

),

long_stages as (

    select
        constant_current.step_number,
        constant_current.stage,
        steps.step_key,
        steps.equipment_id,
        min(constant_current.charge_ah) as charge_start_ah,
        max(constant_current.charge_ah) as charge_end_ah

    from constant_current
    inner join steps on constant_current.step_number = steps.step_number
    group by
        constant_current.step_number,
        constant_current.stage,
        steps.step_key,
        steps.equipment_id,
        steps.capacity_ah
    having
        max(constant_current.charge_ah) - min(constant_current.charge_ah)
        >= {{ var('ica_stage_min_share') }} * steps.capacity_ah

),

final as (

    select
        long_stages.step_key,
        long_stages.equipment_id,
        cast(knots.step_number * 1000000 + knots.stage as bigint) as stage_number,
        cast(knots.stage + 1 as bigint) as stage,
        cast(knots.knot as bigint) as knot,
        knots.stage_current_a as current_a,
        knots.charge_ah,
        long_stages.charge_start_ah,
        long_stages.charge_end_ah,
        knots.voltage_v,
        knots.previous_charge_ah,
        knots.previous_voltage_v,
        coalesce(
            sum(
                0.5 * (knots.voltage_v + knots.previous_voltage_v)
                * (knots.charge_ah - knots.previous_charge_ah)
            ) over (
                partition by knots.step_number, knots.stage
                order by knots.knot
                rows between unbounded preceding and current row
            ),
            0.0
        ) as energy_wh,
        -- from the line between the neighbours
        knots.voltage_v - (
            knots.previous_voltage_v * (knots.next_charge_ah - knots.charge_ah)
            + knots.next_voltage_v * (knots.charge_ah - knots.previous_charge_ah)
        ) / nullif(knots.next_charge_ah - knots.previous_charge_ah, 0.0) as distance_v,
        knots.difference_product,
        cast(knots.readings as bigint) as readings

    from constant_current as knots
    inner join long_stages
        on knots.step_number = long_stages.step_number and knots.stage = long_stages.stage

)

select * from final
