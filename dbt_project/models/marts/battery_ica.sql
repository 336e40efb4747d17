{{ config(cluster_by=clusters(['equipment_id', 'cycle_number'])) }}
with

knots as (

    select * from {{ ref('int_ica_knots') }}

),

stages as (

    select
        *,
        -- of five bins in a window
        window_ah / 5.0 as bin_ah,
        case when direction = 'charge' then 1.0 else -1.0 end as sign

    from {{ ref('int_ica_stages') }}
    where window_ah is not null

),

-- Intervals between two knots that an edge of a bin lies in. Charge in bins from here on.
passed as (

    select
        knots.stage_number,
        knots.voltage_v,
        knots.previous_voltage_v,
        knots.energy_wh / stages.bin_ah as integral,
        (knots.charge_ah - stages.charge_start_ah) / stages.bin_ah as position,
        (knots.charge_ah - knots.previous_charge_ah) / stages.bin_ah as width,
        coalesce(
            cast(
                floor((knots.previous_charge_ah - stages.charge_start_ah) / stages.bin_ah) as bigint
            ) + 1,
            0
        ) as first_edge,
        cast(
            floor((knots.charge_ah - stages.charge_start_ah) / stages.bin_ah) as bigint
        ) as last_edge

    from knots
    inner join stages on knots.stage_number = stages.stage_number

),

-- The integral at the edges of the bins: exact for straight lines between the readings.
edges as (

    select
        passed.stage_number,
        edge,
        coalesce(passed.width, 0.0) as width,
        passed.integral
        - (passed.position - edge) * (
            passed.voltage_v
            - coalesce(
                0.5 * (passed.position - edge)
                * (passed.voltage_v - passed.previous_voltage_v) / passed.width,
                0.0
            )
        ) as integral

    from passed
    cross join {{ unnest_as(int_range('passed.first_edge', 'passed.last_edge'), 'edge') }}
    where passed.first_edge <= passed.last_edge

),

bins as (

    select
        stage_number,
        edge as bin,
        integral - lag(integral) over stage_order as voltage_v,
        -- the longest interval that the bin takes its voltage from, in bins
        greatest(width, lag(width) over stage_order) as width

    from edges
    window stage_order as (partition by stage_number order by edge)

),

-- Savitzky and Golay: a parabola through five bins.
fitted as (

    select
        stage_number,
        bin,
        voltage_v,
        (
            17.0 * voltage_v
            + 12.0 * (lag(voltage_v) over stage_order + lead(voltage_v) over stage_order)
            - 3.0 * (lag(voltage_v, 2) over stage_order + lead(voltage_v, 2) over stage_order)
        ) / 35.0 as smooth_voltage_v,
        (
            lead(voltage_v) over stage_order - lag(voltage_v) over stage_order
            + 2.0 * (lead(voltage_v, 2) over stage_order - lag(voltage_v, 2) over stage_order)
        ) / 10.0 as slope_v,
        max(width) over (
            partition by stage_number
            order by bin
            rows between 2 preceding and 2 following
        ) as widest

    from bins
    where voltage_v is not null
    window stage_order as (partition by stage_number order by bin)

),

with_errors as (

    select
        *,
        -- what is left of the bins' voltages; a parabola takes 17 of 35 parts of it
        avg(power(voltage_v - smooth_voltage_v, 2)) over (
            partition by stage_number
            order by bin
            rows between 2 preceding and 2 following
        ) * 35.0 / 18.0 as residual_v2,
        -- Where the slope bends, its mean over the window is off: by its second derivative times
        -- (17/5 / 6 + 1/24) bins squared; from slopes two bins apart.
        coalesce(
            0.152 * (
                lag(slope_v, 2) over stage_order
                + lead(slope_v, 2) over stage_order
                - 2.0 * slope_v
            ),
            0.0
        ) as bias_v

    from fitted
    window stage_order as (partition by stage_number order by bin)

),

per_ah as (

    select
        stages.stage_key,
        stages.cycle_key,
        stages.equipment_id,
        stages.cycle_number,
        stages.direction,
        stages.step_run,
        stages.stage,
        stages.window_ah,
        with_errors.bin,
        with_errors.smooth_voltage_v,
        with_errors.widest,
        stages.charge_start_ah + (with_errors.bin - 0.5) * stages.bin_ah as charge_ah,
        stages.sign * with_errors.slope_v / stages.bin_ah as dv_dq_v_per_ah,
        stages.sign * with_errors.bias_v / stages.bin_ah as dv_dq_bias_v_per_ah,
        greatest(
            sqrt(with_errors.residual_v2 / 10.0) / stages.bin_ah,
            stages.noise_v_per_ah
        ) as dv_dq_noise_v_per_ah

    from with_errors
    inner join stages on with_errors.stage_number = stages.stage_number
    where with_errors.slope_v is not null

),

with_reason as (

    select
        *,
        case
            -- of the five bins of a window
            when widest > 3.5 then 'the readings are too far apart here'
            when dv_dq_v_per_ah <= 3.0 * dv_dq_noise_v_per_ah
                then 'the slope does not stand out from the noise'
        end as reason

    from per_ah

),

final as (

    select
        stage_key || '|' || cast(bin as string) as ica_key,
        stage_key,
        cycle_key,
        equipment_id,
        cycle_number,
        direction,
        step_run,
        stage,
        cast(bin as bigint) as point,
        smooth_voltage_v as voltage_v,
        charge_ah,
        case when reason is null then 1.0 / dv_dq_v_per_ah end as dq_dv_ah_per_v,
        case
            when reason is null
                then
                    sqrt(
                        power(dv_dq_noise_v_per_ah, 2)
                        -- the bias has noise of its own, about a third of the slope's
                        + greatest(
                            power(dv_dq_bias_v_per_ah, 2)
                            - 0.44 * power(dv_dq_noise_v_per_ah, 2),
                            0.0
                        )
                    ) / power(dv_dq_v_per_ah, 2)
        end as dq_dv_error_ah_per_v,
        dv_dq_v_per_ah,
        dv_dq_noise_v_per_ah,
        dv_dq_bias_v_per_ah,
        window_ah,
        reason

    from with_reason

)

select * from final
