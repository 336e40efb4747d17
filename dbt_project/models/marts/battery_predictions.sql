{{ config(cluster_by=clusters(['equipment_id'])) }}

with

predictions as (

    select * from {{ ref('stg_predictions') }}

),

prediction_cycles as (

    select * from {{ ref('int_prediction_cycles') }}

),

health as (

    select * from {{ ref('battery_health') }}

),

cells as (

    select
        equipment_id,
        max(cycle_number) as last_cycle,
        max(case when is_valid then cycle_number end) as last_valid_cycle,
        max(initial_capacity_ah) as initial_capacity_ah,
        max(nominal_capacity_ah) as nominal_capacity_ah,
        max_by(soh_nominal, case when soh_nominal is not null then cycle_number end)
            as soh_nominal,
        max_by(soh_initial, case when soh_initial is not null then cycle_number end)
            as soh_initial

    from health
    group by equipment_id

),

newest as (

    select *
    from predictions
    qualify row_number() over (
        partition by equipment_id, model
        order by cycle_ended_at desc, made_at desc, prediction_id asc
    ) = 1

),

joined as (

    select
        newest.*,
        prediction_cycles.cycle_number as cell_cycle_number,
        cells.last_cycle - prediction_cycles.cycle_number as cycles_since,
        cells.last_valid_cycle,
        cells.initial_capacity_ah,
        cells.nominal_capacity_ah,
        cells.soh_nominal,
        cells.soh_initial,
        coalesce(
            cells.last_cycle - prediction_cycles.cycle_number > newest.remaining_cycles_high,
            false
        ) as is_outlived

    from newest
    left join prediction_cycles on newest.prediction_id = prediction_cycles.prediction_id
    left join cells on newest.equipment_id = cells.equipment_id

),

with_says as (

    select
        *,
        not out_of_domain
        and not is_outlived
        and coalesce(remaining_cycles, remaining_cycles_low) is not null as says_remaining

    from joined

),

final as (

    select
        equipment_id || '|' || model as prediction_key,
        prediction_id,
        equipment_id,
        model,
        model_version,
        cycle_number as stream_cycle_number,
        cell_cycle_number as cycle_number,
        cycle_ended_at,
        cycles_since,
        made_at,
        soh,
        soh_low,
        soh_high,
        soh_method,
        remaining_cycles,
        remaining_cycles_low,
        remaining_cycles_high,
        threshold_soh,
        end_of_life_at,
        end_of_life_low_at,
        end_of_life_high_at,
        knee_risk,
        out_of_domain,
        reasons,
        is_outlived,
        -- Of several models the one that says what is left; of several of those the latest, and of
        -- one cycle's the one that is surest.
        row_number() over (
            partition by equipment_id
            order by
                says_remaining desc,
                cycle_ended_at desc,
                remaining_cycles_high - remaining_cycles_low asc nulls last,
                model asc
        ) = 1 as is_chosen,
        last_valid_cycle,
        initial_capacity_ah,
        nominal_capacity_ah,
        soh_nominal,
        soh_initial

    from with_says

)

select * from final
