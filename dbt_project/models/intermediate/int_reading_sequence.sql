with

readings as (

    select * from {{ ref('battery_cleaned') }}

),

parts as (

    select * from {{ ref('int_test_parts') }}

),

equipment as (

    select * from {{ ref('dim_equipment') }}

),

-- Files that continue one another are one test from here on, under the key of the first.
in_tests as (

    select
        {{ all_but('readings', ['test_key', 'test_id']) }},
        coalesce(parts.test_key, readings.test_key) as test_key,
        coalesce(parts.test_id, readings.test_id) as test_id

    from readings
    left join parts on readings.test_key = parts.part_key

),

with_limits as (

    select
        readings.*,
        coalesce({{ array_has('readings.quality_flags', "'impedance'") }}, false) as is_impedance,
        equipment.nominal_capacity_ah,
        equipment.v_max_v,
        equipment.gap_s,
        coalesce(equipment.gap_cv_s, equipment.gap_s) as gap_cv_s,
        -- relative to the rated current, or to the largest one seen where no profile names it
        {{ var('rest_current_fraction') }} * coalesce(
            equipment.rated_current_a,
            equipment.nominal_capacity_ah,
            max(
                case
                    when {{ array_has('readings.quality_flags', "'impedance'") }} then null
                    else abs(readings.current_a)
                end
            ) over (partition by readings.equipment_id)
        ) as rest_current_a,
        {{ limits_hash('equipment') }} as limits_hash

    from in_tests as readings
    left join equipment on readings.equipment_id = equipment.equipment_id

),

with_phase as (

    select
        *,
        case
            -- the alternating current of an impedance spectrum neither charges nor discharges
            when is_impedance then 'rest'
            when current_a > rest_current_a then 'charge'
            when current_a < -rest_current_a then 'discharge'
            else 'rest'
        end as phase

    from with_limits

),

with_previous as (

    select
        *,
        row_number() over reading_sequence as reading_seq,
        lag(recorded_at) over reading_sequence as previous_recorded_at,
        lag(test_time_s) over reading_sequence as previous_test_time_s,
        lag(step_time_s) over reading_sequence as previous_step_time_s,
        lag(step_index) over reading_sequence as previous_step_index,
        lag(cycle_index) over reading_sequence as previous_cycle_index,
        lag(phase) over reading_sequence as previous_phase,
        lag(is_impedance) over reading_sequence as previous_is_impedance,
        lag(voltage_v) over reading_sequence as previous_voltage_v,
        lag(current_a) over reading_sequence as previous_current_a

    from with_phase
    window reading_sequence as (
        partition by equipment_id, test_key
        order by {{ reading_order() }}
    )

),

with_delta as (

    select
        *,
        -- the tester's own clock where both readings have it and it ran forward, else event time
        case
            when test_time_s >= previous_test_time_s then test_time_s - previous_test_time_s
            else {{ seconds_between('previous_recorded_at', 'recorded_at') }}
        end as time_delta_s,
        -- a step starts where the tester says so; without a step number, where the current's
        -- direction changes
        case
            when reading_seq = 1 then true
            when is_impedance <> previous_is_impedance then true
            when cycle_index <> previous_cycle_index then true
            when step_index <> previous_step_index then true
            when step_time_s < previous_step_time_s then true
            when step_index is null and phase <> previous_phase then true
            else false
        end as is_step_start

    from with_previous

),

with_step_run as (

    select
        *,
        case when not is_impedance then time_delta_s end as known_interval_s,
        case when not is_step_start then abs(voltage_v - previous_voltage_v) end
            as voltage_change_v,
        case when not is_step_start then abs(current_a - previous_current_a) end
            as current_change_a,
        {{ median('case when not is_impedance then time_delta_s end') }} over in_test
            as test_interval_s,
        sum(case when is_step_start then 1 else 0 end) over (
            partition by equipment_id, test_key
            order by reading_seq
            rows between unbounded preceding and current row
        ) as step_run,
        lag(case when not is_impedance then time_delta_s end) over in_order as earlier_interval_s,
        lead(case when not is_impedance then time_delta_s end) over in_order as later_interval_s

    from with_delta
    window
        in_test as (partition by equipment_id, test_key),
        in_order as (partition by equipment_id, test_key order by reading_seq)

),

-- What is normal for a test it shows itself: the median interval of the step run, or of the whole
-- test where the run is too short to have one.
with_interval as (

    select
        *,
        case
            when count(known_interval_s) over in_step_run >= 3
                then {{ median('known_interval_s') }} over in_step_run
            else test_interval_s
        end as typical_interval_s,
        -- cyclers log a constant voltage by current, so that the interval grows
        case
            when
                current_a > 0
                and previous_current_a > 0
                and voltage_v >= v_max_v - 0.05
                and previous_voltage_v >= v_max_v - 0.05
                then gap_cv_s
            else gap_s
        end as longest_interval_s,
        case when reading_seq = 1 then coalesce(test_time_s, step_time_s) end as since_start_s,
        -- a test's first reading stands one interval after its start, or at the start
        case
            when
                reading_seq = 1
                and coalesce(test_time_s, step_time_s) > 0.0
                and coalesce(test_time_s, step_time_s)
                <= {{ var('gap_interval_factor') }} * test_interval_s
                then coalesce(test_time_s, step_time_s)
        end as lead_s,
        lag(known_interval_s) over step_order as interval_before_s,
        lead(known_interval_s) over step_order as interval_after_s,
        lead(current_a) over step_order as next_current_a,
        -- what usually changes from one reading of the step run to the next
        {{ median('voltage_change_v') }} over in_step_run as typical_voltage_change_v,
        {{ median('current_change_a') }} over in_step_run as typical_current_change_a,
        -- a tester whose first reading carries a current at time zero logs as each step starts
        max(
            case
                when reading_seq = 1 and coalesce(test_time_s, 0.0) = 0.0 and phase <> 'rest' then 1
                else 0
            end
        ) over in_test = 1 as logs_step_starts

    from with_step_run
    window
        in_step_run as (partition by equipment_id, test_key, step_run),
        step_order as (partition by equipment_id, test_key, step_run order by reading_seq),
        in_test as (partition by equipment_id, test_key)

),

final as (

    select
        *,
        -- The models judge, with the whole test before them. The stream's flag decides only for an
        -- equipment whose profile is not known.
        coalesce(
            coalesce(
                time_delta_s > longest_interval_s,
                {{ array_has('quality_flags', "'gap'") }}
            )
            and time_delta_s > {{ var('gap_interval_factor') }} * typical_interval_s
            -- A tester that logs on a change of voltage or current is silent until there is one;
            -- one that logs part of a step seldom is so more than once.
            and not coalesce(
                voltage_change_v between 0.3 * typical_voltage_change_v
                and 3.0 * typical_voltage_change_v
                and typical_voltage_change_v > 0.0
                and current_change_a <= 0.05 * abs(current_a),
                false
            )
            and not coalesce(
                current_change_a between 0.3 * typical_current_change_a
                and 3.0 * typical_current_change_a
                and typical_current_change_a > 0.0
                and voltage_change_v <= 0.005,
                false
            )
            and not coalesce(
                time_delta_s <= {{ var('gap_interval_factor') }} * greatest(
                    coalesce(interval_before_s, 0.0), coalesce(interval_after_s, 0.0)
                )
                and current_change_a <= 0.05 * abs(current_a),
                false
            )
            -- nor is one missing as a step starts, where the intervals before and after are as long
            and not coalesce(
                is_step_start
                and time_delta_s <= {{ var('gap_interval_factor') }} * earlier_interval_s
                and time_delta_s <= {{ var('gap_interval_factor') }} * later_interval_s,
                false
            ),
            false
        ) as is_gap,
        -- The voltage is held and the current decays over the interval: within a step, or from the
        -- constant current of the step before it, where it does not fall at once and then stand.
        coalesce(
            phase <> 'rest'
            and phase = previous_phase
            and abs(current_a) < abs(previous_current_a)
            and case
                when is_step_start
                    then
                        (abs(current_a) - abs(next_current_a)) * time_delta_s
                        >= 0.05
                        * (abs(previous_current_a) - abs(current_a))
                        * interval_after_s
                else voltage_change_v <= 0.005
            end,
            false
        ) as is_decay

    from with_interval

)

select * from final
