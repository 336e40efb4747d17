{{ config(cluster_by=clusters(['equipment_id', 'cycle_number'])) }}
{%- set bin_v = var('ica_bin_v') -%}
with

readings as (

    select * from {{ ref('battery_features') }}
    where equipment_type = 'battery_cell'

),

steps as (

    select * from {{ ref('battery_steps') }}

),

cycles as (

    select * from {{ ref('battery_cycles') }}

),

-- One constant-current charge per cycle: the one that moved most charge.
charge_steps as (

    select
        cycles.cycle_key,
        cycles.equipment_id,
        cycles.cycle_number,
        steps.test_key,
        steps.step_run,
        steps.current_max_a

    from steps
    inner join cycles
        on
            steps.test_key = cycles.test_key
            and steps.test_cycle = cycles.test_cycle
            and steps.cycle_restarts = cycles.cycle_restarts
    where steps.step_type in ('cc_charge', 'cccv_charge')
    qualify row_number() over (
        partition by cycles.cycle_key
        order by steps.charge_ah desc, steps.step_run asc
    ) = 1

),

charge_readings as (

    select
        charge_steps.cycle_key,
        charge_steps.equipment_id,
        charge_steps.cycle_number,
        readings.reading_seq,
        readings.voltage_v,
        sum(readings.dq_charge_ah) over charging as charge_ah,
        -- noise must not run the curve backwards
        max(readings.voltage_v) over charging as rising_voltage_v

    from readings
    inner join charge_steps
        on
            readings.test_key = charge_steps.test_key
            and readings.step_run = charge_steps.step_run
    -- only the constant-current part of a step that also holds the voltage
    where readings.current_a >= 0.95 * charge_steps.current_max_a
    window charging as (
        partition by charge_steps.cycle_key
        order by readings.reading_seq
        rows between unbounded preceding and current row
    )

),

intervals as (

    select
        *,
        lag(rising_voltage_v) over charging as from_voltage_v,
        lag(charge_ah) over charging as from_charge_ah

    from charge_readings
    window charging as (partition by cycle_key order by reading_seq)

),

-- Grid points (whole multiples of the bin width) that an interval passes, its end included.
passed as (

    select
        *,
        case
            when from_voltage_v is null then cast(ceil(rising_voltage_v / {{ bin_v }}) as bigint)
            else cast(floor(from_voltage_v / {{ bin_v }}) as bigint) + 1
        end as first_bin,
        cast(floor(rising_voltage_v / {{ bin_v }}) as bigint) as last_bin

    from intervals
    where from_voltage_v is null or rising_voltage_v > from_voltage_v

),

grid as (

    select
        passed.cycle_key,
        passed.equipment_id,
        passed.cycle_number,
        voltage_bin,
        case
            when passed.from_voltage_v is null then passed.charge_ah
            else
                passed.from_charge_ah
                + (passed.charge_ah - passed.from_charge_ah)
                * (voltage_bin * {{ bin_v }} - passed.from_voltage_v)
                / (passed.rising_voltage_v - passed.from_voltage_v)
        end as charge_ah

    from passed
    cross join {{ unnest_as(int_range('passed.first_bin', 'passed.last_bin'), 'voltage_bin') }}

),

-- Central difference, one-sided at both ends.
differences as (

    select
        *,
        (
            coalesce(lead(charge_ah) over curve, charge_ah)
            - coalesce(lag(charge_ah) over curve, charge_ah)
        ) / nullif(
            (
                coalesce(lead(voltage_bin) over curve, voltage_bin)
                - coalesce(lag(voltage_bin) over curve, voltage_bin)
            ) * {{ bin_v }},
            0.0
        ) as dq_dv_raw_ah_per_v

    from grid
    window curve as (partition by cycle_key order by voltage_bin)

),

smoothed as (

    select
        *,
        avg(dq_dv_raw_ah_per_v) over (
            partition by cycle_key
            order by voltage_bin
            rows between 1 preceding and 1 following
        ) as dq_dv_ah_per_v

    from differences
    where dq_dv_raw_ah_per_v is not null

),

final as (

    select
        cycle_key || '|' || cast(voltage_bin as string) as ica_key,
        cycle_key,
        equipment_id,
        cycle_number,
        cast(voltage_bin as bigint) as voltage_bin,
        cast(round(voltage_bin * {{ bin_v }}, 6) as {{ float_type() }}) as voltage_v,
        charge_ah,
        dq_dv_raw_ah_per_v,
        dq_dv_ah_per_v,
        row_number() over (
            partition by cycle_key order by round(dq_dv_ah_per_v, 9) desc, voltage_bin asc
        ) = 1 as is_peak

    from smoothed

)

select * from final
