with

readings as (

    select * from {{ ref('battery_cleaned') }}
    where {{ is_in_batch() }}

),

-- What the order and the intervals need of them.
clocked as (

    select
        reading_id,
        equipment_id,
        test_key as part_key,
        recorded_at,
        test_time_s,
        record_index,
        source_row,
        step_time_s,
        cycle_index,
        step_index,
        voltage_v,
        current_a,
        coalesce({{ array_has('quality_flags', "'impedance'") }}, false) as is_impedance

    from {{ ref('battery_cleaned') }}
    where {{ is_in_batch() }}

),

parts as (

    select * from {{ ref('int_test_parts') }}

),

equipment as (

    select * from {{ ref('dim_equipment') }}

),

-- The tests by number: rows of nothing but numbers are sorted faster than rows with texts. Files
-- that continue one another are one test from here on, under the key of the first.
tests as (

    select
        delivered.part_key,
        parts.test_id,
        coalesce(parts.test_key, delivered.part_key) as test_key,
        dense_rank() over (order by coalesce(parts.test_key, delivered.part_key)) as test_number

    from (select distinct part_key from clocked) as delivered
    left join parts on delivered.part_key = parts.part_key

),

largest_currents as (

    select
        equipment_id,
        max(case when not is_impedance then abs(current_a) end) as largest_current_a

    from clocked
    group by equipment_id

),

limits as (

    select
        largest_currents.equipment_id,
        equipment.nominal_capacity_ah,
        equipment.v_max_v,
        equipment.gap_s,
        coalesce(equipment.gap_cv_s, equipment.gap_s) as gap_cv_s,
        -- relative to the rated current, or to the largest one seen where no profile names it
        {{ var('rest_current_fraction') }} * coalesce(
            equipment.rated_current_a,
            equipment.nominal_capacity_ah,
            largest_currents.largest_current_a
        ) as rest_current_a,
        {{ limits_hash('equipment') }} as limits_hash

    from largest_currents
    left join equipment on largest_currents.equipment_id = equipment.equipment_id

),

with_phase as (

    select
        clocked.*,
        tests.test_number,
        case
            -- the alternating current of an impedance spectrum neither charges nor discharges
            when clocked.is_impedance then 'rest'
            when clocked.current_a > limits.rest_current_a then 'charge'
            when clocked.current_a < -limits.rest_current_a then 'discharge'
            else 'rest'
        end as phase

    from clocked
    inner join tests on clocked.part_key = tests.part_key
    inner join limits on clocked.equipment_id = limits.equipment_id

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
        partition by equipment_id, test_number
        order by {{ reading_order() }}
    )

),

with_delta as (

    select
        reading_id,
        equipment_id,
        test_number,
        reading_seq,
        test_time_s,
        step_time_s,
        voltage_v,
        current_a,
        is_impedance,
        phase,
        previous_phase,
        previous_voltage_v,
        previous_current_a,
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

with_changes as (

    select
        *,
        case when not is_impedance then time_delta_s end as known_interval_s,
        case when not is_step_start then abs(voltage_v - previous_voltage_v) end
            as voltage_change_v,
        case when not is_step_start then abs(current_a - previous_current_a) end
            as current_change_a

    from with_delta

),

with_step_run as (

    select
        *,
        {{ median('known_interval_s') }} over in_test as test_interval_s,
        count(case when is_step_start then 1 end) over (
            partition by equipment_id, test_number
            order by reading_seq
            rows between unbounded preceding and current row
        ) as step_run,
        lag(known_interval_s) over in_order as earlier_interval_s,
        lead(known_interval_s) over in_order as later_interval_s,
        -- a tester whose first reading carries a current at time zero logs as each step starts
        first_value(coalesce(test_time_s, 0.0) = 0.0 and phase <> 'rest') over in_order
            as logs_step_starts

    from with_changes
    window
        in_test as (partition by equipment_id, test_number),
        in_order as (partition by equipment_id, test_number order by reading_seq)

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
        lag(known_interval_s) over step_order as interval_before_s,
        lead(known_interval_s) over step_order as interval_after_s,
        lead(current_a) over step_order as next_current_a,
        -- what usually changes from one reading of the step run to the next
        {{ median('voltage_change_v') }} over in_step_run as typical_voltage_change_v,
        {{ median('current_change_a') }} over in_step_run as typical_current_change_a

    from with_step_run
    window
        in_step_run as (partition by equipment_id, test_number, step_run),
        step_order as (partition by equipment_id, test_number, step_run order by reading_seq)

),

-- The rest of each reading beside it.
with_reading as (

    select
        {{ all_but('readings', ['equipment_id', 'test_key', 'test_id']) }},
        sequence.equipment_id,
        tests.test_key,
        coalesce(tests.test_id, readings.test_id) as test_id,
        sequence.test_number,
        sequence.reading_seq,
        sequence.is_impedance,
        sequence.phase,
        sequence.previous_phase,
        sequence.previous_voltage_v,
        sequence.previous_current_a,
        sequence.time_delta_s,
        sequence.is_step_start,
        sequence.step_run,
        sequence.logs_step_starts,
        sequence.typical_interval_s,
        sequence.voltage_change_v,
        sequence.typical_voltage_change_v,
        sequence.current_change_a,
        sequence.typical_current_change_a,
        sequence.earlier_interval_s,
        sequence.later_interval_s,
        sequence.interval_before_s,
        sequence.interval_after_s,
        sequence.next_current_a,
        limits.nominal_capacity_ah,
        limits.rest_current_a,
        limits.limits_hash,
        -- cyclers log a constant voltage by current, so that the interval grows
        case
            when
                sequence.current_a > 0
                and sequence.previous_current_a > 0
                and sequence.voltage_v >= limits.v_max_v - 0.05
                and sequence.previous_voltage_v >= limits.v_max_v - 0.05
                then limits.gap_cv_s
            else limits.gap_s
        end as longest_interval_s,
        case
            when sequence.reading_seq = 1
                then coalesce(sequence.test_time_s, sequence.step_time_s)
        end as since_start_s,
        -- a test's first reading stands one interval after its start, or at the start
        case
            when
                sequence.reading_seq = 1
                and coalesce(sequence.test_time_s, sequence.step_time_s) > 0.0
                and coalesce(sequence.test_time_s, sequence.step_time_s)
                <= {{ var('gap_interval_factor') }} * sequence.test_interval_s
                then coalesce(sequence.test_time_s, sequence.step_time_s)
        end as lead_s

    from with_interval as sequence
    inner join readings on sequence.reading_id = readings.reading_id
    inner join tests on readings.test_key = tests.part_key
    inner join limits on sequence.equipment_id = limits.equipment_id

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

    from with_reading

)

select * from final
