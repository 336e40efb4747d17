{{ config(cluster_by=clusters(['equipment_id', 'cycle_number'])) }}
with

curves as (

    select * from {{ ref('battery_ica') }}

),

stages as (

    select * from {{ ref('int_ica_stages') }}

),

points as (

    select
        stages.stage_number,
        curves.point,
        curves.voltage_v,
        curves.charge_ah,
        curves.dq_dv_ah_per_v,
        curves.dv_dq_v_per_ah,
        curves.dv_dq_noise_v_per_ah,
        curves.dq_dv_error_ah_per_v

    from curves
    inner join stages on curves.stage_key = stages.stage_key

),

-- Edges of the curve, and of what is known of it, are no peaks: they lack a neighbour.
with_neighbours as (

    select
        *,
        lag(dq_dv_ah_per_v) over stage_order as previous_ah_per_v,
        lead(dq_dv_ah_per_v) over stage_order as next_ah_per_v,
        lag(dv_dq_v_per_ah) over stage_order as previous_v_per_ah,
        lead(dv_dq_v_per_ah) over stage_order as next_v_per_ah,
        lead(voltage_v) over stage_order - lag(voltage_v) over stage_order as across_v

    from points
    window stage_order as (partition by stage_number order by point)

),

with_maximum as (

    select
        *,
        case
            when dq_dv_ah_per_v > previous_ah_per_v and dq_dv_ah_per_v >= next_ah_per_v
                then 1
            else 0
        end as is_maximum

    from with_neighbours

),

-- Each piece of the curve begins with a local maximum; the first one with the curve. Where a part
-- is not known, another island begins.
with_piece as (

    select
        *,
        count(case when is_maximum = 1 then 1 end) over so_far as piece,
        count(case when dq_dv_ah_per_v is null then 1 end) over so_far as island

    from with_maximum
    window so_far as (
        partition by stage_number
        order by point
        rows between unbounded preceding and current row
    )

),

-- The lowest point of each piece.
valleys as (

    select
        stage_number,
        island,
        piece,
        min(dq_dv_ah_per_v) as valley_ah_per_v,
        min_by(point, dq_dv_ah_per_v) as valley_point,
        min_by(charge_ah, dq_dv_ah_per_v) as valley_charge_ah,
        min_by(voltage_v, dq_dv_ah_per_v) as valley_voltage_v

    from with_piece
    where dq_dv_ah_per_v is not null
    group by stage_number, island, piece

),

maxima as (

    select
        *,
        dv_dq_noise_v_per_ah / dv_dq_v_per_ah as noise_share,
        dq_dv_error_ah_per_v / dq_dv_ah_per_v as error_share

    from with_piece
    where is_maximum = 1

),

-- The nearest higher maximum on either side.
higher as (

    select
        maxima.stage_number,
        maxima.island,
        maxima.piece,
        max(case when others.piece < maxima.piece then others.piece end) as left_piece,
        min(case when others.piece > maxima.piece then others.piece end) as right_piece

    from maxima
    left join maxima as others
        on
            maxima.stage_number = others.stage_number
            and maxima.island = others.island
            and (
                maxima.dq_dv_ah_per_v < others.dq_dv_ah_per_v
                or (
                    maxima.dq_dv_ah_per_v = others.dq_dv_ah_per_v
                    and maxima.piece > others.piece
                )
            )
    group by maxima.stage_number, maxima.island, maxima.piece

),

-- A peak stands above the lowest points on the way there, on both sides.
saddles as (

    select
        higher.stage_number,
        higher.piece,
        higher.left_piece,
        higher.right_piece,
        min(case when valleys.piece < higher.piece then valleys.valley_ah_per_v end)
            as left_valley_ah_per_v,
        min(case when valleys.piece >= higher.piece then valleys.valley_ah_per_v end)
            as right_valley_ah_per_v

    from higher
    inner join valleys
        on
            higher.stage_number = valleys.stage_number
            and higher.island = valleys.island
            and valleys.piece >= coalesce(higher.left_piece, 0)
            and (higher.right_piece is null or higher.right_piece > valleys.piece)
    group by higher.stage_number, higher.piece, higher.left_piece, higher.right_piece

),

peaks as (

    select
        maxima.*,
        saddles.left_piece,
        saddles.right_piece,
        maxima.dq_dv_ah_per_v
        - greatest(saddles.left_valley_ah_per_v, saddles.right_valley_ah_per_v)
            as prominence_ah_per_v

    from maxima
    inner join saddles
        on
            maxima.stage_number = saddles.stage_number
            and maxima.piece = saddles.piece

),

chosen as (

    select
        *,
        greatest(
            coalesce(lag(piece) over (partition by stage_number, island order by piece), 0),
            coalesce(left_piece, 0)
        ) as previous_piece,
        lead(piece) over (partition by stage_number, island order by piece) as next_piece

    from peaks
    where
        prominence_ah_per_v >= dq_dv_ah_per_v * greatest(
            {{ var('ica_peak_prominence_share') }},
            {{ var('ica_peak_prominence_errors') }} * noise_share
        )
        and error_share <= {{ var('ica_peak_max_error') }}

),

-- From the valley before a peak to the one after it: the lowest points between it and the next
-- peaks or anything higher, or the edges of the curve.
bounds as (

    select
        chosen.stage_number,
        chosen.piece,
    {% for name in ['point', 'charge_ah', 'voltage_v'] -%}
        min_by(
            valleys.valley_{{ name }},
            case when valleys.piece < chosen.piece then valleys.valley_ah_per_v end
        ) as first_{{ name }},
        min_by(
            valleys.valley_{{ name }},
            case when valleys.piece >= chosen.piece then valleys.valley_ah_per_v end
        ) as last_{{ name }}{{ ',' if not loop.last }}
    {% endfor %}

    from chosen
    inner join valleys
        on
            chosen.stage_number = valleys.stage_number
            and chosen.island = valleys.island
            and chosen.previous_piece <= valleys.piece
            and (chosen.next_piece is null or chosen.next_piece > valleys.piece)
            and (chosen.right_piece is null or chosen.right_piece > valleys.piece)
    group by chosen.stage_number, chosen.piece

),

-- The points of a peak that are as high as its highest one within the error, or within the noise.
of_peak as (

    select
        chosen.stage_number,
        chosen.piece,
        points.voltage_v,
        points.dv_dq_v_per_ah,
        points.point - chosen.point as offset_points,
        points.dq_dv_ah_per_v
        >= chosen.dq_dv_ah_per_v * (1.0 - 2.0 * chosen.noise_share) as is_top

    from chosen
    inner join bounds
        on
            chosen.stage_number = bounds.stage_number
            and chosen.piece = bounds.piece
    inner join points
        on
            chosen.stage_number = points.stage_number
            and points.point between bounds.first_point and bounds.last_point
            and points.dq_dv_ah_per_v
            >= chosen.dq_dv_ah_per_v * (1.0 - 3.0 * chosen.error_share)

),

centred as (

    select
        *,
        avg(case when is_top then cast(offset_points as {{ float_type() }}) end) over (
            partition by stage_number, piece
        ) as centre

    from of_peak

),

-- Sums of least squares over the top, around its centre.
sums as (

    select
        stage_number,
        piece,
        max(voltage_v) - min(voltage_v) as span_v,
        max(centre) as centre,
        max(case when is_top then offset_points end)
        - min(case when is_top then offset_points end) as width,
        sum(case when is_top then 1.0 end) as n,
        sum(case when is_top then power(offset_points - centre, 2) end) as u2,
        sum(case when is_top then power(offset_points - centre, 3) end) as u3,
        sum(case when is_top then power(offset_points - centre, 4) end) as u4,
        avg(case when is_top then voltage_v end) as mean_v,
        sum(case when is_top then (offset_points - centre) * voltage_v end) as uv,
        sum(case when is_top then dv_dq_v_per_ah end) as s,
        sum(case when is_top then (offset_points - centre) * dv_dq_v_per_ah end) as us,
        sum(case when is_top then power(offset_points - centre, 2) * dv_dq_v_per_ah end) as u2s

    from centred
    group by stage_number, piece

),

parabolas as (

    select
        *,
        (n * u2s - u2 * s - n * u3 * us / nullif(u2, 0.0))
        / nullif(n * u4 - u2 * u2 - n * u3 * u3 / nullif(u2, 0.0), 0.0) as bend

    from sums

),

with_slope as (

    select
        *,
        (us - bend * u3) / nullif(u2, 0.0) as slope,
        (s - bend * u2) / n as level

    from parabolas

),

vertices as (

    select
        *,
        case
            when n >= 5 and bend > 0.0 and abs(slope) / (2.0 * bend) <= 0.5 * width
                then -slope / (2.0 * bend)
        end as vertex

    from with_slope

),

-- The lowest dV/dQ and where it is: of the parabola through the top; of a top without one, its
-- mean; of a narrow top, of the parabola through the highest point and its neighbours.
refined as (

    select
        chosen.*,
        bounds.last_charge_ah - bounds.first_charge_ah as area_ah,
        least(bounds.first_voltage_v, bounds.last_voltage_v) as voltage_from_v,
        greatest(bounds.first_voltage_v, bounds.last_voltage_v) as voltage_to_v,
        vertices.span_v,
        case
            when vertices.vertex is not null
                then vertices.level + 0.5 * vertices.slope * vertices.vertex
            when vertices.n >= 5 then vertices.s / vertices.n
            else
                chosen.dv_dq_v_per_ah
                - power(chosen.next_v_per_ah - chosen.previous_v_per_ah, 2) / (
                    8.0 * (
                        chosen.previous_v_per_ah
                        + chosen.next_v_per_ah
                        - 2.0 * chosen.dv_dq_v_per_ah
                    )
                )
        end as lowest_v_per_ah,
        case
            when vertices.n >= 5
                then vertices.mean_v + coalesce(vertices.vertex, 0.0) * vertices.uv / vertices.u2
            else
                chosen.voltage_v
                + 0.25 * chosen.across_v
                * (chosen.previous_v_per_ah - chosen.next_v_per_ah) / (
                    chosen.previous_v_per_ah
                    + chosen.next_v_per_ah
                    - 2.0 * chosen.dv_dq_v_per_ah
                )
        end as peak_voltage_v

    from chosen
    inner join vertices
        on
            chosen.stage_number = vertices.stage_number
            and chosen.piece = vertices.piece
    inner join bounds
        on
            chosen.stage_number = bounds.stage_number
            and chosen.piece = bounds.piece

),

with_error as (

    select
        stages.stage_key
        || '|'
        || cast(
            row_number() over (
                partition by refined.stage_number order by refined.point
            ) as string
        ) as peak_key,
        stages.stage_key,
        stages.cycle_key,
        stages.equipment_id,
        stages.cycle_number,
        stages.direction,
        stages.step_run,
        stages.stage,
        row_number() over (partition by refined.stage_number order by refined.point) as peak,
        refined.peak_voltage_v as voltage_v,
        0.5 * refined.span_v + 0.125 * abs(refined.across_v) as voltage_error_v,
        1.0 / refined.lowest_v_per_ah as dq_dv_ah_per_v,
        refined.error_share / refined.lowest_v_per_ah as dq_dv_error_ah_per_v,
        refined.prominence_ah_per_v,
        refined.area_ah,
        refined.voltage_from_v,
        refined.voltage_to_v,
        stages.window_ah,
        stages.is_noise_known,
        row_number() over (
            partition by stages.cycle_key, stages.direction
            order by refined.lowest_v_per_ah asc, stages.stage_key asc, refined.point asc
        ) = 1 as is_main

    from refined
    inner join stages on refined.stage_number = stages.stage_number

),

final as (

    select
        peak_key,
        stage_key,
        cycle_key,
        equipment_id,
        cycle_number,
        direction,
        step_run,
        stage,
        peak,
        voltage_v,
        voltage_error_v,
        dq_dv_ah_per_v,
        dq_dv_error_ah_per_v,
        prominence_ah_per_v,
        area_ah,
        voltage_from_v,
        voltage_to_v,
        window_ah,
        is_main,
        is_noise_known
        and voltage_error_v <= {{ var('ica_certain_error_v') }}
        and dq_dv_error_ah_per_v <= {{ var('ica_certain_error') }} * dq_dv_ah_per_v as is_certain

    from with_error

)

select * from final
