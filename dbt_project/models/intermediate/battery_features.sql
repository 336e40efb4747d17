{{ config(
    materialized='incremental',
    incremental_strategy=replacement(),
    unique_key='equipment_id',
    on_schema_change='append_new_columns',
    partition_by=partitions('recorded_at'),
    cluster_by=clusters(['equipment_id', 'test_key'])
) }}
{#- The counters, and what may have flowed through each in the interval before a reading. -#}
{%- set counters = {
    'charge_capacity_ah': 'flow_ah', 'discharge_capacity_ah': 'flow_ah',
    'charge_energy_wh': 'flow_wh', 'discharge_energy_wh': 'flow_wh'
} -%}
{%- set sequence = ref('int_reading_sequence') -%}
{%- set changed = changed_equipment(sequence) if adds_to_itself() else none %}

with

sequenced as (

    select * from {{ sequence }}
    where {{ is_among('equipment_id', changed) }}

),

-- Counters ---------------------------------------------------------------------------------------
-- What each gained, in rows of nothing but the counters: they are sorted once per counter.

counted as (

    select
        test_key,
        reading_seq,
        max(cycle_index) over (partition by test_key) is not null as has_cycle_index,
        last_value(cycle_index ignore nulls) over (
            partition by test_key
            order by reading_seq
            rows between unbounded preceding and 1 preceding
        ) as last_cycle_index,
        -- the rows of an impedance spectrum count nothing
        {% for counter in counters -%}
            case when is_impedance is not true then {{ counter }} end as known_{{ counter }},
        {% endfor -%}
        -- what may have flowed before the test's first reading
        abs(current_a) * since_start_s / 3600.0 as lead_flow_ah,
        abs(voltage_v * current_a) * since_start_s / 3600.0 as lead_flow_wh,
        lead_s is not null as is_near_start,
        -- what may have flowed up to here, in either direction
        sum(
            case
                when is_impedance then 0.0
                else
                    coalesce(
                        greatest(abs(current_a), abs(coalesce(previous_current_a, current_a)))
                        * time_delta_s / 3600.0,
                        0.0
                    )
            end
        ) over so_far as flow_ah,
        sum(
            case
                when is_impedance then 0.0
                else
                    coalesce(
                        greatest(
                            abs(voltage_v * current_a),
                            abs(coalesce(previous_voltage_v * previous_current_a, 0.0))
                        ) * time_delta_s / 3600.0,
                        0.0
                    )
            end
        ) over so_far as flow_wh

    from sequenced
    window so_far as (
        partition by test_key
        order by reading_seq
        rows between unbounded preceding and current row
    )

),

with_neighbours as (

    select
        {% for counter, flow in counters.items() -%}
            -- a counter that never moves is a column that was filled with zeros
            coalesce(max(known_{{ counter }}) over test > 0, false) as has_{{ counter }},
            -- the last known value, so that a row without one neither loses nor repeats anything
            last_value(known_{{ counter }} ignore nulls) over earlier as previous_{{ counter }},
            last_value(
                case when known_{{ counter }} is not null then {{ flow }} end ignore nulls
            ) over earlier as previous_{{ counter }}_flow,
            first_value(known_{{ counter }} ignore nulls) over later as next_{{ counter }},
            first_value(
                case when known_{{ counter }} is not null then {{ flow }} end ignore nulls
            ) over later as next_{{ counter }}_flow,
        {% endfor -%}
        *

    from counted
    window
        test as (partition by test_key),
        earlier as (
            partition by test_key
            order by reading_seq
            rows between unbounded preceding and 1 preceding
        ),
        later as (
            partition by test_key
            order by reading_seq
            rows between 1 following and unbounded following
        )

),

with_runs as (

    select
        {% for counter, flow in counters.items() -%}
            known_{{ counter }},
            has_{{ counter }},
            sum(
                case
                    when
                        {{ counter_restarted(
                            'known_' ~ counter,
                            'previous_' ~ counter,
                            '(' ~ flow ~ ' - previous_' ~ counter ~ '_flow)',
                            'next_' ~ counter,
                            '(next_' ~ counter ~ '_flow - ' ~ flow ~ ')',
                        ) }}
                        then 1
                    else 0
                end
            ) over so_far as {{ counter }}_run,
        {% endfor -%}
        has_cycle_index,
        last_cycle_index,
        lead_flow_ah,
        lead_flow_wh,
        is_near_start,
        test_key,
        reading_seq

    from with_neighbours
    window so_far as (
        partition by test_key
        order by reading_seq
        rows between unbounded preceding and current row
    )

),

with_tops as (

    select
        {% for counter in counters -%}
            max(known_{{ counter }}) over (
                partition by test_key, {{ counter }}_run
                order by reading_seq
                rows between unbounded preceding and 1 preceding
            ) as {{ counter }}_top,
        {% endfor -%}
        *

    from with_runs

),

gains as (

    select
        {% for counter, flow in counters.items() -%}
            has_{{ counter }},
            {{ counter_increment(
                'known_' ~ counter, counter ~ '_top', counter ~ '_run', 'lead_' ~ flow,
                'is_near_start'
            ) }}
                as gained_{{ counter }},
        {% endfor -%}
        has_cycle_index,
        last_cycle_index,
        test_key,
        reading_seq

    from with_tops

),

with_gains as (

    select
        {% for counter, flow in counters.items() -%}
            gains.has_{{ counter }},
            gains.gained_{{ counter }},
        {% endfor -%}
        gains.has_cycle_index,
        gains.last_cycle_index,
        sequenced.*,
        sequenced.voltage_v * sequenced.current_a as power_watt,
        sequenced.previous_voltage_v * sequenced.previous_current_a as previous_power_watt

    from sequenced
    inner join gains
        on
            sequenced.test_key = gains.test_key
            and sequenced.reading_seq = gains.reading_seq

),

-- The integral of the current, beside the counters: the second witness of the charge.
with_integrals as (

    select
        *,
        case
            when equipment_type <> 'battery_cell' then null
            when is_impedance then 0.0
            else {{ integrated_increment('current_a', 'previous_current_a') }}
        end as dq_charge_integrated_ah,
        case
            when equipment_type <> 'battery_cell' then null
            when is_impedance then 0.0
            else {{ integrated_increment('-current_a', '-previous_current_a') }}
        end as dq_discharge_integrated_ah,
        case
            when equipment_type <> 'battery_cell' then null
            when is_impedance then 0.0
            else {{ integration_bound('current_a', 'previous_current_a') }}
        end as dq_charge_bound_ah,
        case
            when equipment_type <> 'battery_cell' then null
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
        -- what flows at rest moves no level; the interval in which a rest begins is the load's
        phase = 'rest' and coalesce(previous_phase = 'rest', true) as is_resting,
        case
            when equipment_type <> 'battery_cell' then null
            when has_charge_capacity_ah then gained_charge_capacity_ah
            else dq_charge_integrated_ah
        end as dq_charge_ah,
        case
            when equipment_type <> 'battery_cell' then null
            when has_discharge_capacity_ah then gained_discharge_capacity_ah
            else dq_discharge_integrated_ah
        end as dq_discharge_ah,
        case
            when equipment_type <> 'battery_cell' then null
            when has_charge_energy_wh then gained_charge_energy_wh
            when is_impedance then 0.0
            else {{ integrated_increment('power_watt', 'previous_power_watt') }}
        end as de_charge_wh,
        case
            when equipment_type <> 'battery_cell' then null
            when has_discharge_energy_wh then gained_discharge_energy_wh
            when is_impedance then 0.0
            else {{ integrated_increment('-power_watt', '-previous_power_watt') }}
        end as de_discharge_wh,
        case
            when equipment_type <> 'battery_cell' then null
            when has_charge_capacity_ah or has_discharge_capacity_ah then 'counter'
            else 'integrated'
        end as charge_method

    from with_integrals

),

-- Swings of charge, and the cycles of tests without a cycle counter ------------------------------

{{ swings_of_charge() }},

with_cycles as (

    select
        with_swing.*,
        case
            when with_swing.equipment_type <> 'battery_cell' then null
            when with_swing.has_cycle_index
                then
                    coalesce(
                        with_swing.cycle_index,
                        with_swing.last_cycle_index,
                        min(with_swing.cycle_index) over (
                            partition by with_swing.test_key
                        )
                    )
            else coalesce(swing_cycles.derived_cycle_index, 1)
        end as test_cycle,
        -- the cycler was restarted under the same test: its cycle number fell back to the start
        case
            when
                with_swing.cycle_index < with_swing.last_cycle_index
                and with_swing.cycle_index <= 1
                then 1
            else 0
        end as is_cycle_restart

    from with_swing
    left join swing_cycles
        on
            with_swing.test_key = swing_cycles.test_key
            and with_swing.swing_number = swing_cycles.swing_number

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
        cast(
            sum(is_cycle_restart) over (
                partition by test_key
                order by reading_seq
                rows between unbounded preceding and current row
            ) as bigint
        ) as cycle_restarts,
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
        sum(dq_charge_ah + dq_discharge_ah) over (
            partition by equipment_id
            order by {{ reading_order() }}
            rows between unbounded preceding and current row
        ) as total_capacity_ah,
        charge_capacity_ah + discharge_capacity_ah as naive_total_capacity_ah,

        {{ half_intervals('is_gap') }} as weight_s,

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
    window in_test as (partition by test_key order by reading_seq)

)

{{ with_rest_of_days('final', changed, sequence) }}
