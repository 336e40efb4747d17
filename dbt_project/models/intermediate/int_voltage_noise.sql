-- Materialized: read by dQ/dV and by the resistance.
{{ config(materialized='table', cluster_by=clusters(['equipment_id'])) }}

with

readings as (

    select * from {{ ref('battery_features') }}

),

steps as (

    select * from {{ ref('battery_steps') }}

),

limits as (

    select * from {{ ref('int_cell_limits') }}

),

rest_readings as (

    select
        equipment_id,
        test_key,
        step_run,
        reading_seq,
        voltage_v,
        sum(time_delta_s) over (
            partition by test_key, step_run
            order by reading_seq
            rows between unbounded preceding and current row
        ) as elapsed_s

    from readings
    where equipment_type = 'battery_cell' and phase = 'rest' and is_impedance is not true

),

differences as (

    select
        equipment_id,
        abs(
            voltage_v - 2.0 * lag(voltage_v) over step_order + lag(voltage_v, 2) over step_order
        ) as difference_v,
        lag(elapsed_s, 2) over step_order as elapsed_before_s

    from rest_readings
    window step_order as (partition by test_key, step_run order by reading_seq)

),

collected as (

    select
        equipment_id,
        {{ collect('difference_v') }} as differences_v

    from differences
    where elapsed_before_s >= {{ var('resistance_rest_s') }}
    group by equipment_id
    having count(difference_v) >= 20

),

-- Second differences of white noise of deviation s: half of them are below 0.6745 sqrt(6) s.
rests as (

    select
        equipment_id,
        {{ array_median('differences_v') }} / 1.652 as rest_noise_v

    from collected

),

-- A charge that is held ends at one voltage, cycle by cycle.
held_charges as (

    select
        steps.equipment_id,
        -- The last digits depend on the order of addition.
        round(stddev_samp(steps.voltage_end_v), 9) as held_noise_v

    from steps
    inner join limits on steps.equipment_id = limits.equipment_id
    where
        steps.step_type in ('cv_charge', 'cccv_charge')
        and abs(steps.voltage_end_v - limits.upper_limit_v) <= {{ var('cutoff_voltage_margin_v') }}
    group by steps.equipment_id
    having count(steps.voltage_end_v) >= 5

),

final as (

    select
        coalesce(rests.equipment_id, held_charges.equipment_id) as equipment_id,
        rests.rest_noise_v,
        held_charges.held_noise_v

    from rests
    full outer join held_charges on rests.equipment_id = held_charges.equipment_id

)

select * from final
