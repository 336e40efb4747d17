{{ config(
    materialized='incremental',
    incremental_strategy=replacement(),
    unique_key='equipment_id',
    on_schema_change='append_new_columns',
    partition_by=partitions('recorded_at'),
    cluster_by=clusters(['equipment_id', 'test_key'])
) }}
{%- set sequence = ref('int_reading_sequence') -%}
{%- set changed = changed_equipment(sequence) if adds_to_itself() else none %}

with

sequenced as (

    select * from {{ sequence }}
    where {{ is_among('equipment_id', changed) }}

),

-- Counters ---------------------------------------------------------------------------------------

{{ counter_gains() }},

-- Numbers only from here on: the texts come back at the end.
with_gains as (

    select
        gains.*,
        sequenced.equipment_id,
        sequenced.equipment_type = 'battery_cell' as is_cell,
        sequenced.nominal_capacity_ah,
        sequenced.reading_id,
        sequenced.recorded_at,
        sequenced.test_time_s,
        sequenced.record_index,
        sequenced.source_row,
        sequenced.step_time_s,
        sequenced.time_delta_s,
        sequenced.lead_s,
        sequenced.step_run,
        sequenced.is_step_start,
        sequenced.logs_step_starts,
        sequenced.is_gap,
        sequenced.is_decay,
        sequenced.is_impedance,
        -- what flows at rest moves no level; the interval in which a rest begins is the load's
        sequenced.phase = 'rest' and coalesce(sequenced.previous_phase = 'rest', true)
            as is_resting,
        sequenced.current_a,
        sequenced.previous_current_a,
        sequenced.voltage_v * sequenced.current_a as power_watt,
        sequenced.previous_voltage_v * sequenced.previous_current_a as previous_power_watt

    from sequenced
    inner join gains
        on
            sequenced.test_number = gains.test_number
            and sequenced.reading_seq = gains.reading_seq

),

-- The integral of the current, beside the counters: the second witness of the charge.
with_integrals as (

    select
        *,
        case
            when not is_cell then null
            when is_impedance then 0.0
            else {{ integrated_increment('current_a', 'previous_current_a') }}
        end as dq_charge_integrated_ah,
        case
            when not is_cell then null
            when is_impedance then 0.0
            else {{ integrated_increment('-current_a', '-previous_current_a') }}
        end as dq_discharge_integrated_ah,
        case
            when not is_cell then null
            when is_impedance then 0.0
            else {{ integration_bound('current_a', 'previous_current_a') }}
        end as dq_charge_bound_ah,
        case
            when not is_cell then null
            when is_impedance then 0.0
            else {{ integration_bound('-current_a', '-previous_current_a') }}
        end as dq_discharge_bound_ah,
        -- what may have flowed in a gap: it is in no integral
        case
            when is_gap
                then
                    greatest(abs(current_a), abs(coalesce(previous_current_a, 0.0)))
                    * time_delta_s / 3600.0
            else 0.0
        end as dq_gap_ah

    from with_gains

),

with_increments as (

    select
        *,
        case
            when not is_cell then null
            when has_charge_capacity_ah then gained_charge_capacity_ah
            else dq_charge_integrated_ah
        end as dq_charge_ah,
        case
            when not is_cell then null
            when has_discharge_capacity_ah then gained_discharge_capacity_ah
            else dq_discharge_integrated_ah
        end as dq_discharge_ah,
        case
            when not is_cell then null
            when has_charge_energy_wh then gained_charge_energy_wh
            when is_impedance then 0.0
            else {{ integrated_increment('power_watt', 'previous_power_watt') }}
        end as de_charge_wh,
        case
            when not is_cell then null
            when has_discharge_energy_wh then gained_discharge_energy_wh
            when is_impedance then 0.0
            else {{ integrated_increment('-power_watt', '-previous_power_watt') }}
        end as de_discharge_wh,
        case
            when not is_cell then null
            when has_charge_capacity_ah or has_discharge_capacity_ah then 'counter'
            else 'integrated'
        end as charge_method

    from with_integrals

),

-- Swings of charge, and the cycles of tests without a cycle counter ------------------------------

{{ swings_of_charge() }},

totals as (

    select
        test_number,
        reading_seq,
        sum(dq_charge_ah + dq_discharge_ah) over (
            partition by equipment_id
            order by {{ reading_order() }}
            rows between unbounded preceding and current row
        ) as total_capacity_ah

    from with_increments

),

with_cycles as (

    select
        sequenced.*,
        {% for column in [
            'power_watt', 'is_resting', 'charge_method', 'dq_charge_ah', 'dq_discharge_ah',
            'de_charge_wh', 'de_discharge_wh', 'dq_charge_integrated_ah',
            'dq_discharge_integrated_ah', 'dq_charge_bound_ah', 'dq_discharge_bound_ah',
            'dq_gap_ah', 'has_charge_capacity_ah', 'has_discharge_capacity_ah', 'has_cycle_index',
            'cycle_restarts', 'weight_s'
        ] -%}
            with_increments.{{ column }},
        {% endfor -%}
        totals.total_capacity_ah,
        numbered_swings.level_ah,
        numbered_swings.swing_number,
        case
            when not with_increments.is_cell then null
            when with_increments.has_cycle_index then with_increments.counted_cycle
            else coalesce(swing_cycles.derived_cycle_index, 1)
        end as test_cycle

    from sequenced
    inner join with_increments
        on
            sequenced.test_number = with_increments.test_number
            and sequenced.reading_seq = with_increments.reading_seq
    inner join totals
        on
            sequenced.test_number = totals.test_number
            and sequenced.reading_seq = totals.reading_seq
    left join numbered_swings
        on
            sequenced.test_number = numbered_swings.test_number
            and sequenced.reading_seq = numbered_swings.reading_seq
    left join swing_cycles
        on
            numbered_swings.test_number = swing_cycles.test_number
            and numbered_swings.swing_number = swing_cycles.swing_number

),

-- Result -----------------------------------------------------------------------------------------

final as (

    select
        -- keys
        reading_id,
        equipment_id,
        equipment_type,
        test_id,
        test_key,
        reading_seq,

        -- times
        recorded_at,
        streamed_at,
        ingested_at,
        time_delta_s,

        -- origin
        source_file,
        source_row,
        record_index,

        -- position in the test
        test_time_s,
        step_time_s,
        cycle_index,
        step_index,
        cast(test_cycle as bigint) as test_cycle,
        cast(cycle_restarts as bigint) as cycle_restarts,
        equipment_type = 'battery_cell' and not has_cycle_index as is_cycle_derived,
        cast(step_run as bigint) as step_run,
        is_step_start,
        phase,
        rest_current_a,
        is_resting,
        -- the load changed while it was on or as it came on
        current_a <> 0.0 and abs(current_a) > rest_current_a
        and abs(current_a - coalesce(previous_current_a, 0.0)) > 0.1 * abs(current_a)
            as is_load_change,

        -- measurements
        voltage_v,
        current_a,
        charge_capacity_ah,
        discharge_capacity_ah,
        charge_energy_wh,
        discharge_energy_wh,
        internal_resistance_ohm,
        temperature_c,
        ambient_temperature_c,
        frequency_hz,

        -- features
        power_watt,
        dq_charge_ah,
        dq_discharge_ah,
        de_charge_wh,
        de_discharge_wh,
        charge_method,
        level_ah,
        cast(swing_number as bigint) as swing_number,
        dq_charge_integrated_ah,
        dq_discharge_integrated_ah,
        dq_charge_bound_ah,
        dq_discharge_bound_ah,
        dq_gap_ah,
        equipment_type = 'battery_cell' and has_charge_capacity_ah as has_charge_counter,
        equipment_type = 'battery_cell' and has_discharge_capacity_ah as has_discharge_counter,
        total_capacity_ah,
        charge_capacity_ah + discharge_capacity_ah as naive_total_capacity_ah,
        weight_s,

        -- quality
        is_gap,
        typical_interval_s,
        is_impedance is true as is_impedance,
        is_late,
        is_flagged,
        quality_flags,

        -- what it was built from
        deliveries,
        limits_hash

    from with_cycles

)

{{ with_rest_of_days('final', changed, sequence) }}
