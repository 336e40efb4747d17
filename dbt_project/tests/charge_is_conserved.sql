-- What the readings gained, the steps and the cycles must hold too: no reading is lost or counted
-- twice on the way up. A warning: one cell's figures keep no model of another from being built.
{{ config(severity='warn') }}
with

totals as (

    select
        'battery_features' as model_name,
        equipment_id,
        dq_charge_ah as charge_ah,
        dq_discharge_ah as discharge_ah
    from {{ ref('battery_features') }}
    where equipment_type = 'battery_cell' and not is_impedance

    union all

    select
        'battery_steps' as model_name,
        equipment_id,
        charge_ah,
        discharge_ah
    from {{ ref('battery_steps') }}

    union all

    select
        'battery_cycles' as model_name,
        equipment_id,
        charge_ah,
        discharge_ah
    from {{ ref('battery_cycles') }}

),

summed as (

    select
        model_name,
        equipment_id,
        sum(charge_ah) as charge_ah,
        sum(discharge_ah) as discharge_ah

    from totals
    group by model_name, equipment_id

)

select
    equipment_id,
    max(charge_ah) - min(charge_ah) as charge_difference_ah,
    max(discharge_ah) - min(discharge_ah) as discharge_difference_ah

from summed
group by equipment_id
having
    count(*) <> 3
    or max(charge_ah) - min(charge_ah) > 1e-6 * greatest(max(charge_ah), 1.0)
    or max(discharge_ah) - min(discharge_ah) > 1e-6 * greatest(max(discharge_ah), 1.0)
