{{ config(materialized='table') }}
with

knots as (

    select * from {{ ref('int_ica_knots') }}

),

steps as (

    select * from {{ ref('int_ica_steps') }}

),

noises as (

    select * from {{ ref('int_voltage_noise') }}

),

-- How the distance from the line between the neighbours changes from one knot to the next has
-- little left of the curve itself.
with_changes as (

    select
        knots.step_key,
        knots.stage_number,
        knots.stage,
        knots.knot,
        knots.current_a,
        knots.charge_ah,
        knots.previous_charge_ah,
        knots.charge_start_ah,
        knots.charge_end_ah,
        knots.voltage_v,
        knots.difference_product,
        knots.readings,
        -- not a gap that no window is wide enough for
        knots.charge_ah - knots.previous_charge_ah
        <= steps.scale_ah * {{ var('ica_window_sparse_share') }} / {{ var('ica_window_intervals') }}
            as is_bridged,
        (knots.charge_ah - knots.charge_start_ah)
        / nullif(knots.charge_end_ah - knots.charge_start_ah, 0.0) as position,
        abs(knots.distance_v - lag(knots.distance_v) over stage_order) as change_v,
        (knots.distance_v - lag(knots.distance_v) over stage_order)
        * (lag(knots.distance_v) over stage_order - lag(knots.distance_v, 2) over stage_order)
            as change_product

    from knots
    inner join steps on knots.step_key = steps.step_key
    window stage_order as (partition by knots.stage_number order by knots.knot)

),

aggregated as (

    select
        stage_number,
        max(step_key) as step_key,
        max(stage) as stage,
        max(current_a) as current_a,
        max(charge_start_ah) as charge_start_ah,
        max(charge_end_ah) - max(charge_start_ah) as span_ah,
        count(*) as knots,
        sum(readings) as readings,
        sum(case when is_bridged then power(charge_ah - previous_charge_ah, 2) end) as squared_ah2,
        sum(case when is_bridged then charge_ah - previous_charge_ah end) as bridged_ah,
        max(case when is_bridged then charge_ah - previous_charge_ah end) as longest_ah,
        -- White noise of variance s2 makes the first product -3.75 s2 on average, the second one
        -- -15 s2; few are no average. The ends bend too much.
        case
            when count(case when position between 0.1 and 0.9 then change_product end) >= 30
                then -avg(case when position between 0.1 and 0.9 then change_product end) / 3.75
        end as knot_variance_v2,
        {{ collect('case when position between 0.1 and 0.9 then change_v end') }} as changes_v,
        case
            when count(case when position between 0.1 and 0.9 then difference_product end) >= 30
                then
                    -sum(case when position between 0.1 and 0.9 then difference_product end)
                    / sum(case when position between 0.1 and 0.9 then readings end) / 15.0
        end as reading_variance_v2,
        avg(case when position between 0.05 and 0.15 then voltage_v end) as early_v,
        avg(case when position between 0.05 and 0.15 then charge_ah end) as early_ah,
        avg(case when position between 0.85 and 0.95 then voltage_v end) as late_v,
        avg(case when position between 0.85 and 0.95 then charge_ah end) as late_ah,
        min_by(voltage_v, knot) as first_v,
        max_by(voltage_v, knot) as last_v,
        -- the coarsest round step that all voltages are multiples of
    {% for step in [0.01, 0.005, 0.001, 0.0005, 0.0001] -%}
        max(abs(voltage_v / {{ step }} - round(voltage_v / {{ step }}))) < 1e-3
            as is_in_steps_{{ loop.index }}{{ ',' if not loop.last }}
    {% endfor %}

    from with_changes
    group by stage_number

),

with_noise as (

    select
        *,
        -- the interval that a point of the charge falls into, on average
        coalesce(squared_ah2 / nullif(bridged_ah, 0.0), span_ah) as sampling_ah,
        cast(
            case
                {% for step in [0.01, 0.005, 0.001, 0.0005, 0.0001] -%}
                    when is_in_steps_{{ loop.index }} then {{ step }}
                {% endfor -%}
                else 0.0
            end as {{ float_type() }}
        ) as resolution_v,
        -- of white noise half the changes are below 0.6745 sqrt(5) s
        power({{ array_median('changes_v') }} / 1.508, 2) as median_variance_v2,
        -- as if each knot were one reading
        reading_variance_v2 * knots / readings as spread_variance_v2,
        abs(
            coalesce(
                (late_v - early_v) / nullif(late_ah - early_ah, 0.0),
                (last_v - first_v) / nullif(span_ah, 0.0)
            )
        ) as mean_slope_v_per_ah

    from aggregated

),

with_scale as (

    select
        with_noise.*,
        steps.cycle_key,
        steps.equipment_id,
        steps.cycle_number,
        steps.test_key,
        steps.step_run,
        steps.direction,
        steps.capacity_ah,
        steps.scale_ah,
        noises.rest_noise_v

    from with_noise
    inner join steps on with_noise.step_key = steps.step_key
    left join noises on steps.equipment_id = noises.equipment_id

),

with_noise_v as (

    select
        *,
        -- Each is too high where it does not apply: the knots' where noise was rounded, for two
        -- knots never have the same voltage; the readings' where their spacing is uneven; both
        -- where the curve has sharp steps, the median where the readings are sparse.
        sqrt(
            greatest(
                least(
                    coalesce(knot_variance_v2, spread_variance_v2, 0.0),
                    coalesce(spread_variance_v2, knot_variance_v2, 0.0),
                    coalesce(median_variance_v2, 0.0)
                ),
                0.0,
                -- readings that are far apart do not show their noise; those at rest do
                power(coalesce(rest_noise_v, 0.0), 2),
                -- rounding is noise as far as the readings do not show where its steps lie
                power(resolution_v * knots / readings, 2) / 12.0
            )
        ) as noise_v,
        -- plateaus are about half as steep as the curve is on average
        0.5 * mean_slope_v_per_ah as plateau_slope_v_per_ah

    from with_scale

),

-- The window that noise asks for: the slope of a line through voltages spaced d over a window w has
-- the variance 12 s2 d / w^3.
with_windows as (

    select
        *,
        power(
            12.0 * noise_v * noise_v * (span_ah / nullif(knots - 1, 0))
            / nullif(power({{ var('ica_slope_error') }} * plateau_slope_v_per_ah, 2), 0.0),
            1.0 / 3.0
        ) as noise_window_ah,
        case
            when 2.0 * plateau_slope_v_per_ah * scale_ah < {{ var('ica_flat_span_v') }}
                then {{ var('ica_window_max_share_flat') }}
            else {{ var('ica_window_max_share') }}
        end * scale_ah as widest_ah

    from with_noise_v

),

with_window as (

    select
        *,
        greatest(
            least(
                greatest(
                    {{ var('ica_window_min_share') }} * scale_ah,
                    coalesce(noise_window_ah, 0.0)
                ),
                widest_ah
            ),
            {{ var('ica_window_intervals') }} * sampling_ah,
            -- the longest interval has to fit into it too, unless it is an odd one
            least(1.5 * longest_ah, 4.0 * sampling_ah)
        ) as window_ah

    from with_windows

),

with_reason as (

    select
        *,
        case
            when plateau_slope_v_per_ah = 0.0 then 'the voltage does not change with the charge'
            when window_ah > {{ var('ica_window_sparse_share') }} * scale_ah
                then 'the readings are too far apart, or the voltage is too coarse'
            when span_ah < 2.0 * window_ah
                then 'the stage is shorter than two windows'
        end as reason

    from with_window

),

short_steps as (

    select
        steps.*,
        case
            when steps.is_long_enough then 'no constant current for long enough'
            else 'moved too little charge'
        end as reason

    from steps
    left join with_reason on steps.step_key = with_reason.step_key
    where with_reason.step_key is null

),

final as (

    select
        step_key || '|' || cast(stage as string) as stage_key,
        stage_number,
        cycle_key,
        equipment_id,
        cycle_number,
        test_key,
        direction,
        step_run,
        stage,
        current_a,
        charge_start_ah,
        span_ah,
        capacity_ah,
        readings,
        sampling_ah,
        noise_v,
        resolution_v,
        -- of the slope of a line over the window, from the noise
        sqrt(
            12.0 * noise_v * noise_v * (span_ah / (knots - 1)) / power(window_ah, 3)
        ) as noise_v_per_ah,
        case when reason is null then window_ah end as window_ah,
        -- seen at rest, or in readings that are near enough to each other
        rest_noise_v is not null or readings >= {{ var('ica_noise_readings') }} as is_noise_known,
        reason

    from with_reason

    union all

    select
        step_key || '|1' as stage_key,
        null as stage_number,
        cycle_key,
        equipment_id,
        cycle_number,
        test_key,
        direction,
        step_run,
        1 as stage,
        current_max_abs_a as current_a,
        null as charge_start_ah,
        moved_ah as span_ah,
        capacity_ah,
        null as readings,
        null as sampling_ah,
        null as noise_v,
        null as resolution_v,
        null as noise_v_per_ah,
        null as window_ah,
        false as is_noise_known,
        reason

    from short_steps

)

select * from final
