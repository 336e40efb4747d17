{#-
    What each counter gained up to each reading, and the cycle number, as CTEs after `sequenced`.
    `gains` holds them by test_number and reading_seq, in rows of nothing but numbers: they are sorted
    several times.

    Where no counter and no cycle number of a test ever falls, the last known value is the highest one.
    Only the other tests need to be looked at for restarts and dips.
-#}
{%- macro counter_gains() -%}
{#- The counters, and what may have flowed through each in the interval before a reading. -#}
{%- set counters = {
    'charge_capacity_ah': 'flow_ah', 'discharge_capacity_ah': 'flow_ah',
    'charge_energy_wh': 'flow_wh', 'discharge_energy_wh': 'flow_wh'
} -%}
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

)
{%- endmacro -%}
