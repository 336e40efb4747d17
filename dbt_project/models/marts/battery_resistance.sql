{{ config(
    partition_by=partitions('started_at', 'timestamp', 'month'),
    cluster_by=clusters(['equipment_id', 'test_key'])
) }}
{#- The times after the change of current that a resistance is given at, s. -#}
{%- set times = [10, 30] -%}
{#- From the middle of the slope's stretch to that of the first 30 s, in halves of the former. -#}
{%- set to_start = '(%s + %s - 30.0) / (%s - %s)' | format(
    var('resistance_window_s'), var('resistance_settled_s'),
    var('resistance_window_s'), var('resistance_settled_s')
) %}

with

loads as (

    select * from {{ ref('int_load_changes') }}

),

estimates as (

    select * from {{ ref('int_load_estimates') }}

),

loads_before as (

    select * from {{ ref('int_loads_before') }}

),

noises as (

    select * from {{ ref('int_voltage_noise') }}

),

joined as (

    select
        estimates.*,
        -- the step's own readings show it only where they are near to each other
        greatest(
            estimates.step_noise_ohm,
            2.0 * sqrt(2.0) * coalesce(noises.rest_noise_v, noises.held_noise_v, 0.0)
            / abs(estimates.current_a - estimates.current_before_a)
        ) as noise_ohm,
        estimates.is_noise_seen or noises.rest_noise_v is not null
        or noises.held_noise_v is not null as is_noise_known,
        {% for seconds in times -%}
            loads_before.fallen_{{ seconds }}_a,
            loads_before.fallen_error_{{ seconds }}_a,
            loads_before.fallen_{{ seconds }}_v,
            loads_before.fallen_error_{{ seconds }}_v,
        {% endfor -%}
        coalesce(loads_before.is_turn, false) as is_turn,
        coalesce(not loads_before.is_below_limit, false) as is_at_full_charge,
        estimates.current_a - estimates.current_before_a as change_a,
        loads.step_key,
        loads.equipment_id,
        loads.test_cycle,
        loads.cycle_restarts,
        loads.direction,
        loads.started_at,
        loads.duration_s,
        loads.moved_ah,
        loads.charge_level,
        loads.previous_duration_s,
        loads.rests_slope_v_ah,
        loads.rests_slope_error_v_ah,
        loads.drift_v_s

    from estimates
    inner join loads
        on estimates.test_key = loads.test_key and estimates.step_run = loads.step_run
    left join noises on loads.equipment_id = noises.equipment_id
    left join loads_before
        on
            estimates.test_key = loads_before.test_key
            and estimates.step_run = loads_before.step_run
    where abs(estimates.current_a - estimates.current_before_a) >= estimates.min_change_a

),

-- Where each is possible: from the load before, held or not; within the step; at rest, where no
-- charge moves; between rests.
with_slopes as (

    select
        *,
        -- The slope within the step is that of minutes later. How far off it may be at the
        -- beginning is what its change, drawn on to there, makes of it; and where the load before
        -- has shown that stretch, the difference.
        case
            when
                direction <> 'rest' and is_constant
                and slope_early_v_s is not null and slope_late_v_s is not null
                and (fallen_30_v is not null or not is_turn)
                then
                    greatest(
                        {{ to_start }} * abs(slope_early_v_s - slope_late_v_s),
                        {{ to_start }} * abs(slope_all_v_s - slope_early_v_s),
                        {{ to_start }} * abs(slope_all_v_s - slope_late_v_s),
                        coalesce(
                            abs(sign(current_a) * fallen_30_v / 30.0 - slope_all_v_s), 0.0
                        )
                    )
        end as within_error_v_s,
        -- The share of the change of voltage that the open-circuit voltage has: it falls by the
        -- resistance of minutes, somewhat above that of half a minute, times the fall of the held
        -- current.
        {% for seconds in times -%}
            {{ var('resistance_held_ratio') }} * fallen_{{ seconds }}_a
            / (abs(change_a) + {{ var('resistance_held_ratio') }} * fallen_{{ seconds }}_a)
                as held_share_{{ seconds }},
            {{ var('resistance_held_ratio') }} * fallen_error_{{ seconds }}_a / abs(change_a)
                as held_open_{{ seconds }},
        {% endfor -%}
        fallen_error_30_v / 30.0 as before_error_v_s,
        rests_slope_v_ah * current_a / 3600.0 as rests_slope_v_s,
        rests_slope_error_v_ah * abs(current_a) / 3600.0 as rests_error_v_s

    from joined

),

with_ocv as (

    select
        *,
        case
            when direction = 'rest' then 'at_rest'
            when fallen_10_a >= 0.0 and fallen_30_a >= 0.0
                then 'held_charge'
            when
                is_turn and fallen_10_v is not null and fallen_30_v is not null
                and before_error_v_s <= coalesce(within_error_v_s, before_error_v_s)
                and before_error_v_s <= coalesce(rests_error_v_s, before_error_v_s)
                then 'load_before'
            when is_at_full_charge then null
            when
                within_error_v_s is not null
                and (rests_error_v_s is null or within_error_v_s <= rests_error_v_s)
                then 'within_step'
            when rests_error_v_s is not null and rests_slope_v_s is not null then 'between_rests'
        end as ocv_method

    from with_slopes

),

with_correction as (

    select
        *,
        case ocv_method
            when 'at_rest' then 0.0
            -- of what it falls in 30 s
            when 'held_charge' then plain_30 * change_a * held_share_30 / 30.0
            when 'load_before' then sign(current_a) * fallen_30_v / 30.0
            when 'within_step' then slope_all_v_s
            when 'between_rests' then rests_slope_v_s
        end as ocv_slope_v_s,
        case ocv_method
            when 'at_rest' then 0.0
            when 'within_step' then within_error_v_s
            when 'between_rests' then rests_error_v_s
        end as ocv_error_v_s,
        -- at rest, what the voltage did before was the fall under the load that has ended
        case when ocv_method = 'at_rest' then 0.0 else drift_v_s end as moving_v_s

    from with_ocv

),

with_errors as (

    select
        *,
        {% for seconds in times -%}
            open_{{ seconds }}
            + noise_ohm
            + coalesce(drift_v_s, 0.0) * reading_before_age_s / abs(change_a)
                as error_{{ seconds }},
            case
                when ocv_method = 'held_charge'
                    then plain_{{ seconds }} * (1.0 - held_share_{{ seconds }})
                when ocv_method = 'load_before'
                    then plain_{{ seconds }} - fallen_{{ seconds }}_v / abs(change_a)
                else plain_{{ seconds }} - ocv_slope_v_s * {{ seconds }} / change_a
            end as corrected_{{ seconds }},
            case ocv_method
                when 'held_charge'
                    then
                        (
                            {{ var('resistance_held_error_share') }} * held_share_{{ seconds }}
                            + held_open_{{ seconds }}
                        ) * plain_{{ seconds }}
                -- and two more readings, with the noise of those at the step
                when 'load_before'
                    then
                        fallen_error_{{ seconds }}_v / abs(change_a)
                        + (sqrt(2.0) - 1.0) * noise_ohm
                else ocv_error_v_s * {{ seconds }} / abs(change_a)
            end as ocv_open_{{ seconds }},
            moving_v_s * {{ seconds }} / abs(change_a) as moving_{{ seconds }}
            {%- if not loop.last %},{% endif %}
        {% endfor %}

    from with_correction

),

reasoned as (

    select
        *,
        {% for seconds in times -%}
            case
                when begins_with_gap then 'sampling: readings are missing before the step'
                when last_s < {{ seconds }} - {{ near(seconds) }} and duration_s < {{ seconds }}
                    then 'step: it ends before {{ seconds }} s'
                when start_uncertainty_s > {{ seconds }}
                    then 'start: not known when the step began'
                when coalesce(edges_{{ seconds }}, 0) < 2 and first_s > {{ seconds }}
                    then 'sampling: no reading in the first {{ seconds }} s'
                when coalesce(edges_{{ seconds }}, 0) < 2
                    then 'sampling: no reading at {{ seconds }} s or after it'
                when not is_constant_{{ seconds }}
                    then 'current: not constant until {{ seconds }} s'
                when drift_v_s is null and reading_before_age_s > {{ 0.1 * seconds }}
                    then 'sampling: no reading shortly before the step'
                when plain_{{ seconds }} < 0
                    then 'voltage: moves against the current'
                when
                    open_{{ seconds }}
                    > 1.000001 * {{ var('resistance_sampling_share') }} * plain_{{ seconds }}
                    then
                        case
                            when
                                start_uncertainty_s > 0.0
                                and sampling_{{ seconds }}
                                <= {{ var('resistance_sampling_share') }} * plain_{{ seconds }}
                                then 'start: not known when the step began'
                            else 'sampling: readings around {{ seconds }} s too far apart'
                        end
                when
                    error_{{ seconds }}
                    > {{ var('resistance_error_share') }} * plain_{{ seconds }}
                    then
                        case
                            when
                                open_{{ seconds }} + noise_ohm
                                <= {{ var('resistance_error_share') }} * plain_{{ seconds }}
                                then 'voltage: was moving before the step'
                            else 'voltage: too noisy for so small a change'
                        end
            end as reason_{{ seconds }}
            {%- if not loop.last %},{% endif %}
        {% endfor %}

    from with_errors

),

corrected as (

    select
        *,
        {% for seconds in times -%}
            case
                when reason_{{ seconds }} is not null then 'resistance: not known'
                when not is_noise_known then 'voltage: its noise is not known'
                when
                    ocv_method = 'at_rest'
                    and previous_duration_s < {{ var('resistance_settled_s') }}
                    then 'rest: after a load too short'
                when
                    ocv_method is null
                    and (is_at_full_charge or is_turn and slope_all_v_s is not null)
                    then 'open circuit: how it goes as the step begins is not known'
                when ocv_method is null
                    then 'open circuit: neither a long step nor rests around it'
                when moving_v_s is null then 'voltage: not known whether it moved before the step'
                when
                    error_{{ seconds }} + ocv_open_{{ seconds }} + moving_{{ seconds }}
                    > {{ var('resistance_error_share') }} * corrected_{{ seconds }}
                    then
                        case
                            when
                                error_{{ seconds }}
                                >= ocv_open_{{ seconds }} + moving_{{ seconds }}
                                then 'sampling: the plain figure is too open'
                            when moving_{{ seconds }} > ocv_open_{{ seconds }}
                                then 'voltage: was moving before the step'
                            else 'open circuit: slope not known well enough'
                        end
            end as ocv_reason_{{ seconds }}
            {%- if not loop.last %},{% endif %}
        {% endfor %}

    from reasoned

),

final as (

    select
        step_key,
        equipment_id,
        test_key,
        step_run,
        test_cycle,
        cycle_restarts,
        direction,
        started_at,
        voltage_before_v,
        current_before_a,
        current_a,
        moved_ah,
        charge_level,
        start_uncertainty_s,
        {% for seconds in times -%}
            case when reason_{{ seconds }} is null then plain_{{ seconds }} end
                as dc_resistance_{{ seconds }}s_ohm,
            case when reason_{{ seconds }} is null then error_{{ seconds }} end
                as dc_resistance_{{ seconds }}s_error_ohm,
            case when reason_{{ seconds }} is null then from_{{ seconds }} end
                as dc_resistance_{{ seconds }}s_from_s,
            case when reason_{{ seconds }} is null then to_{{ seconds }} end
                as dc_resistance_{{ seconds }}s_to_s,
            reason_{{ seconds }} as dc_resistance_{{ seconds }}s_reason,
            case when ocv_reason_{{ seconds }} is null then corrected_{{ seconds }} end
                as dc_resistance_{{ seconds }}s_ocv_ohm,
        {% endfor -%}
        ocv_method,
        ocv_slope_v_s,
        -- of the later time whose plain figure is known
        coalesce(
            case when reason_30 is null then ocv_reason_30 end,
            case when reason_10 is null then ocv_reason_10 end,
            case when reason_30 is not null and reason_10 is not null then ocv_reason_30 end
        ) as ocv_correction_reason

    from corrected

)

select * from final
