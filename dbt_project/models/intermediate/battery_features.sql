{{ config(
    materialized=by_part('incremental'),
    meta={
        'part': 'equipment',
        'inputs': ['battery_cleaned', 'int_test_parts', 'dim_equipment'],
        'joins': 'as written'
    },
    incremental_strategy=replacement(),
    unique_key='equipment_id',
    on_schema_change='append_new_columns',
    partition_by=partitions('recorded_at'),
    cluster_by=clusters(['equipment_id', 'test_key'])
) }}
{#- Inputs that `meta` names and the query reads through the sequence alone, as unit tests do. -#}
{%- if model['resource_type'] == 'model' %}
-- depends_on: {{ ref('battery_cleaned') }}, {{ ref('int_test_parts') }}, {{ ref('dim_equipment') }}
{%- endif %}
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
    where
        {{ is_among('equipment_id', changed) }}
        and {{ is_in_batch() }}

),

-- Counters ---------------------------------------------------------------------------------------
-- What each gained, in rows of nothing but numbers: they are sorted several times. Where none of
-- them falls in a test, the last known value is the highest one: only the other tests are looked at
-- for restarts and dips.

known as (

    select
        test_number,
        reading_seq,
        cycle_index,
        time_delta_s,
        is_gap,
        -- the rows of an impedance spectrum count nothing
        {% for counter in counters -%}
            case when is_impedance is not true then {{ counter }} end as known_{{ counter }},
        {% endfor -%}
        -- what may have flowed before the test's first reading
        abs(current_a) * since_start_s / 3600.0 as lead_flow_ah,
        abs(voltage_v * current_a) * since_start_s / 3600.0 as lead_flow_wh,
        lead_s is not null as is_near_start,
        -- what may have flowed in the interval before a reading, in either direction
        case
            when is_impedance then 0.0
            else
                coalesce(
                    greatest(abs(current_a), abs(coalesce(previous_current_a, current_a)))
                    * time_delta_s / 3600.0,
                    0.0
                )
        end as interval_flow_ah,
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
        end as interval_flow_wh

    from sequenced

),

counted as (

    select
        test_number,
        reading_seq,
        cycle_index,
        min(cycle_index) over test as first_cycle_index,
        last_value(cycle_index ignore nulls) over earlier as last_cycle_index,
        {{ half_intervals('is_gap') }} as weight_s,
        {% for counter in counters -%}
            known_{{ counter }},
            -- a counter that never moves is a column that was filled with zeros
            coalesce(max(known_{{ counter }}) over test > 0, false) as has_{{ counter }},
            -- the last known value, so that a row without one neither loses nor repeats anything
            last_value(known_{{ counter }} ignore nulls) over earlier as previous_{{ counter }},
        {% endfor -%}
        lead_flow_ah,
        lead_flow_wh,
        is_near_start,
        interval_flow_ah,
        interval_flow_wh

    from known
    window
        test as (partition by test_number),
        in_test as (partition by test_number order by reading_seq),
        earlier as (
            partition by test_number
            order by reading_seq
            rows between unbounded preceding and 1 preceding
        )

),

-- Tests whose counters or cycle number fall ------------------------------------------------------

falling_tests as (

    select distinct test_number
    from counted
    where
        cycle_index < last_cycle_index
        {%- for counter in counters %}
            or known_{{ counter }} < previous_{{ counter }}
        {%- endfor %}

),

with_flow as (

    select
        counted.*,
        -- what may have flowed up to here
        sum(counted.interval_flow_ah) over so_far as flow_ah,
        sum(counted.interval_flow_wh) over so_far as flow_wh

    from counted
    inner join falling_tests on counted.test_number = falling_tests.test_number
    window so_far as (
        partition by counted.test_number
        order by counted.reading_seq
        rows between unbounded preceding and current row
    )

),

with_neighbours as (

    select
        {% for counter, flow in counters.items() -%}
            last_value(
                case when known_{{ counter }} is not null then {{ flow }} end ignore nulls
            ) over earlier as previous_{{ counter }}_flow,
            first_value(known_{{ counter }} ignore nulls) over later as next_{{ counter }},
            first_value(
                case when known_{{ counter }} is not null then {{ flow }} end ignore nulls
            ) over later as next_{{ counter }}_flow,
        {% endfor -%}
        *

    from with_flow
    window
        earlier as (
            partition by test_number
            order by reading_seq
            rows between unbounded preceding and 1 preceding
        ),
        later as (
            partition by test_number
            order by reading_seq
            rows between 1 following and unbounded following
        )

),

with_runs as (

    select
        {% for counter, flow in counters.items() -%}
            known_{{ counter }},
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
        -- the cycler was restarted under the same test: its cycle number fell back to the start
        sum(case when cycle_index < last_cycle_index and cycle_index <= 1 then 1 else 0 end)
            over so_far as cycle_restarts,
        test_number,
        reading_seq

    from with_neighbours
    window so_far as (
        partition by test_number
        order by reading_seq
        rows between unbounded preceding and current row
    )

),

with_tops as (

    select
        {% for counter in counters -%}
            {{ counter }}_run,
            max(known_{{ counter }}) over (
                partition by test_number, {{ counter }}_run
                order by reading_seq
                rows between unbounded preceding and 1 preceding
            ) as {{ counter }}_top,
        {% endfor -%}
        cycle_restarts,
        test_number,
        reading_seq

    from with_runs

),

-- All tests --------------------------------------------------------------------------------------

with_highest as (

    select
        counted.*,
        {% for counter in counters -%}
            coalesce(with_tops.{{ counter }}_run, 0) as {{ counter }}_run,
            case
                when with_tops.test_number is null then counted.previous_{{ counter }}
                else with_tops.{{ counter }}_top
            end as {{ counter }}_top,
        {% endfor -%}
        coalesce(with_tops.cycle_restarts, 0) as cycle_restarts

    from counted
    left join with_tops
        on
            counted.test_number = with_tops.test_number
            and counted.reading_seq = with_tops.reading_seq

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
        first_cycle_index is not null as has_cycle_index,
        coalesce(cycle_index, last_cycle_index, first_cycle_index) as counted_cycle,
        cycle_restarts,
        weight_s,
        test_number,
        reading_seq

    from with_highest

),

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
{{ charge_increments() }},

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
        content_hash,
        limits_hash

    from with_cycles

)

{{ with_rest_of_days('final', changed, sequence) }}
