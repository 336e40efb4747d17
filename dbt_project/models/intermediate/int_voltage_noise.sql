-- Materialized: read by dQ/dV and by the resistance.
{{ config(materialized='table', cluster_by=clusters(['equipment_id'])) }}

with

readings as (

    select * from {{ ref('battery_features') }}

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
final as (

    select
        equipment_id,
        {{ array_median('differences_v') }} / 1.652 as rest_noise_v

    from collected

)

select * from final
