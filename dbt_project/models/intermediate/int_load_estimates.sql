-- Materialized: read by the resistance and by the loads before it.
{{ config(materialized='table', cluster_by=clusters(['test_key'])) }}
{#- The times after the change of current that a resistance is estimated at, s. -#}
{%- set times = [10, 30] -%}
{%- set window_s = var('resistance_window_s') -%}
{%- set settled_s = var('resistance_settled_s') -%}
{%- set middle_s = '(' ~ settled_s ~ ' + ' ~ window_s ~ ') / 2.0' -%}

with

responses as (

    select * from {{ ref('int_load_responses') }}

),

-- From one reading to the next, with their neighbours.
intervals as (

    select
        *,
        lag(elapsed_s) over step_order is not null as has_from,
        coalesce(lag(elapsed_s) over step_order, 0.0) as from_s,
        coalesce(lag(ohm) over step_order, 0.0) as from_ohm,
        coalesce(lag(elapsed_s, 2) over step_order, 0.0) as before_s,
        coalesce(lag(ohm, 2) over step_order, 0.0) as before_ohm,
        lag(elapsed_s, 3) over step_order as long_before_s,
        lag(ohm, 3) over step_order as long_before_ohm,
        lead(elapsed_s) over step_order is null as is_last,
        case when lead(is_constant) over step_order then lead(elapsed_s) over step_order end
            as after_s,
        case when lead(is_constant) over step_order then lead(ohm) over step_order end as after_ohm

    from responses
    where abs(current_a - current_before_a) >= 0.5 * min_change_a
    window step_order as (partition by test_key, step_run order by reading_seq)

),

-- Noise of the voltage, as ohm. Third differences of readings at equal distances have 20 times its
-- variance, and signs that alternate (a correlation of -0.75 from one to the next); those of a
-- smooth response keep their sign.
differences as (

    select
        test_key,
        step_run,
        after_ohm - 3.0 * ohm + 3.0 * from_ohm - before_ohm as third,
        ohm - 3.0 * from_ohm + 3.0 * before_ohm - long_before_ohm as previous_third

    from intervals
    where
        abs((elapsed_s - from_s) - (from_s - before_s)) <= 0.1 * (elapsed_s - from_s)
        and abs((after_s - elapsed_s) - (elapsed_s - from_s)) <= 0.1 * (elapsed_s - from_s)
        and abs((before_s - long_before_s) - (elapsed_s - from_s)) <= 0.1 * (elapsed_s - from_s)

),

noises as (

    select
        test_key,
        step_run,
        case
            when avg(third * previous_third) < -0.25 * avg(third * third)
                then sqrt(avg(third * third) / 20.0)
            else 0.0
        end as noise_ohm

    from differences
    group by test_key, step_run
    having count(*) >= 3

),

targets as (

    {% for seconds in times -%}
        {% for edge in [0, 1] -%}
            select
                {{ seconds }} as at_s,
                {{ edge }} as edge
            {% if not loop.last %}union all{% endif %}
        {% endfor -%}
        {% if not loop.last %}union all{% endif %}
    {% endfor %}
),

-- The interval that holds the wanted time, counted from the earliest moment at which the step can
-- have begun, and from the latest.
timed as (

    select
        intervals.*,
        targets.at_s,
        targets.at_s + targets.edge * intervals.start_uncertainty_s as place_s,
        {{ near('targets.at_s') }} as near_s

    from intervals
    cross join targets
    where intervals.start_uncertainty_s <= targets.at_s

),

placed as (

    select *
    from timed
    where
        (elapsed_s >= place_s and has_from and from_s < place_s)
        or (elapsed_s >= place_s and not has_from and elapsed_s - place_s <= near_s)
        or (elapsed_s < place_s and is_last and place_s - elapsed_s <= near_s)

),

-- The response to a step of the current is a sum of rising exponentials: it rises ever more slowly.
-- So it lies above the chord between two readings and below the chords to their outer neighbours
-- drawn on. Between these it goes about as the root of time.
bounded as (

    select
        test_key,
        step_run,
        at_s,
        place_s,
        is_constant,
        elapsed_s as to_s,
        case when has_from then from_s end as from_s,
        -- the reading itself, where the time is its own; the last one, where none comes after
        case
            when elapsed_s < place_s then ohm
            else
                from_ohm
                + (ohm - from_ohm) * (place_s - from_s) / nullif(elapsed_s - from_s, 0.0)
        end as chord_ohm,
        case
            when elapsed_s < place_s
                then
                    ohm + (ohm - from_ohm) / nullif(elapsed_s - from_s, 0.0) * (place_s - elapsed_s)
            else
                least(
                    ohm,
                    coalesce(
                        ohm
                        - (after_ohm - ohm) / nullif(after_s - elapsed_s, 0.0)
                        * (elapsed_s - place_s),
                        ohm
                    ),
                    case
                        when has_from
                            then
                                coalesce(
                                    from_ohm
                                    + (from_ohm - before_ohm) / nullif(from_s - before_s, 0.0)
                                    * (place_s - from_s),
                                    ohm
                                )
                        else ohm
                    end
                )
        end as outer_ohm,
        case
            when not has_from
                then
                    coalesce(
                        ohm
                        - (after_ohm - ohm) * (sqrt(elapsed_s) - sqrt(place_s))
                        / nullif(sqrt(after_s) - sqrt(elapsed_s), 0.0),
                        ohm
                    )
            else
                coalesce(
                    from_ohm
                    + (ohm - from_ohm) * (sqrt(place_s) - sqrt(from_s))
                    / nullif(sqrt(elapsed_s) - sqrt(from_s), 0.0),
                    ohm
                )
        end as root_ohm

    from placed

),

-- A reading shortly before the time and one not long after it carry the root of time by themselves.
estimates as (

    select
        test_key,
        step_run,
        at_s,
        is_constant,
        from_s,
        to_s,
        least(chord_ohm, outer_ohm) as low_ohm,
        greatest(least(root_ohm, greatest(chord_ohm, outer_ohm)), least(chord_ohm, outer_ohm))
            as root_ohm,
        case
            when
                from_s >= {{ var('resistance_close_before') }} * place_s
                and to_s >= place_s
                and to_s <= {{ var('resistance_close_after') }} * place_s
                then
                    least(
                        greatest(chord_ohm, outer_ohm),
                        (1.0 + {{ var('resistance_sampling_share') }})
                        * greatest(root_ohm, chord_ohm)
                    )
            else greatest(chord_ohm, outer_ohm)
        end as high_ohm

    from bounded

),

estimated as (

    select
        test_key,
        step_run,
        at_s,
        count(*) as edges,
        min(case when is_constant then 1 else 0 end) = 1 as is_constant,
        min(from_s) as from_s,
        max(to_s) as to_s,
        min(low_ohm) as low_ohm,
        max(high_ohm) as high_ohm,
        avg(root_ohm) as root_ohm,
        -- what the readings would leave open if it were known when the step began
        max(high_ohm - low_ohm) / 2.0 as sampling_ohm

    from estimates
    group by test_key, step_run, at_s

),

-- As near to the interpolated figure as the bounds on either side allow.
weighed as (

    select
        *,
        greatest(
            least(
                root_ohm,
                low_ohm + {{ var('resistance_sampling_share') }} * (low_ohm + high_ohm) / 2.0
            ),
            high_ohm - {{ var('resistance_sampling_share') }} * (low_ohm + high_ohm) / 2.0
        ) as plain_ohm

    from estimated

),

by_step as (

    select
        test_key,
        step_run,
        {% for seconds in times -%}
            max(case when at_s = {{ seconds }} then edges end) as edges_{{ seconds }},
            max(case when at_s = {{ seconds }} and is_constant then 1 else 0 end) = 1
                as is_constant_{{ seconds }},
            max(case when at_s = {{ seconds }} then from_s end) as from_{{ seconds }},
            max(case when at_s = {{ seconds }} then to_s end) as to_{{ seconds }},
            max(case when at_s = {{ seconds }} then plain_ohm end) as plain_{{ seconds }},
            max(case when at_s = {{ seconds }} then sampling_ohm end) as sampling_{{ seconds }},
            max(
                case
                    when at_s = {{ seconds }}
                        then greatest(high_ohm - plain_ohm, plain_ohm - low_ohm)
                end
            ) as open_{{ seconds }}
            {%- if not loop.last %},{% endif %}
        {% endfor %}

    from weighed
    group by test_key, step_run

),

-- The step as a whole, and its voltage over time once the fast response is over: sums of least
-- squares for all of that stretch and for each half of it, about its middle.
windowed as (

    select
        test_key,
        step_run,
        max(voltage_before_v) as voltage_before_v,
        max(current_before_a) as current_before_a,
        max(load_current_a) as current_a,
        max(min_change_a) as min_change_a,
        max(case when begins_with_gap then 1 else 0 end) = 1 as begins_with_gap,
        max(start_uncertainty_s) as start_uncertainty_s,
        max(reading_before_age_s) as reading_before_age_s,
        min(elapsed_s) as first_s,
        max(elapsed_s) as last_s,
        min(case when is_constant then 1 else 0 end) = 1 as is_constant,
        -- the step of a voltage that was rounded to full 10, 5 or 1 mV
        case
            when count(*) < 4 then 0.0
            {% for resolution in [0.01, 0.005, 0.001] -%}
                when
                    max(abs(voltage_v / {{ resolution }} - round(voltage_v / {{ resolution }})))
                    < 1e-4
                    then {{ resolution }}
            {% endfor -%}
            else 0.0
        end as resolution_v,
        {% for half, condition in {
            'all': 'elapsed_s >= ' ~ settled_s,
            'early': 'elapsed_s >= ' ~ settled_s ~ ' and elapsed_s < ' ~ middle_s,
            'late': 'elapsed_s >= ' ~ middle_s
        }.items() -%}
            {{ slope(
                'elapsed_s - ' ~ middle_s, 'voltage_v - voltage_before_v',
                condition ~ ' and elapsed_s <= ' ~ window_s
            ) }} as slope_{{ half }}_v_s
            {%- if not loop.last %},{% endif %}
        {% endfor %}

    from responses
    group by test_key, step_run

),

final as (

    select
        windowed.*,
        {% for seconds in times -%}
            by_step.edges_{{ seconds }},
            by_step.is_constant_{{ seconds }},
            by_step.from_{{ seconds }},
            by_step.to_{{ seconds }},
            by_step.plain_{{ seconds }},
            by_step.sampling_{{ seconds }},
            by_step.open_{{ seconds }},
        {% endfor -%}
        -- of two readings, the one before the step and the one at the time: two standard deviations
        -- of noise, and what rounding stays within for 19 of 20
        2.0 * sqrt(2.0) * coalesce(noises.noise_ohm, 0.0)
        + 0.75 * windowed.resolution_v
        / nullif(abs(windowed.current_a - windowed.current_before_a), 0.0) as step_noise_ohm,
        noises.noise_ohm is not null as is_noise_seen

    from windowed
    left join by_step
        on windowed.test_key = by_step.test_key and windowed.step_run = by_step.step_run
    left join noises
        on windowed.test_key = noises.test_key and windowed.step_run = noises.step_run

)

select * from final
