-- Materialized: looks into the readings of the cells whose profile names no limits.
{{ config(materialized='table', cluster_by=clusters(['equipment_id'])) }}

with

equipment as (

    select * from {{ ref('dim_equipment') }}
    where equipment_type = 'battery_cell'

),

swings as (

    select * from {{ ref('int_swing_totals') }}

),

readings as (

    select * from {{ ref('battery_features') }}

),

-- A profile without a nominal capacity is a generic one: its voltage limits are safety bounds, not
-- what this cell is cycled between.
profiles as (

    select
        equipment_id,
        case when nominal_capacity_ah is not null then v_max_v end as v_max_v,
        case when nominal_capacity_ah is not null then v_min_v end as v_min_v,
        cutoff_current_a

    from equipment

),

-- A charge that was held: its current fell to less than half at the voltage it ended with.
held_charges as (

    select
        equipment_id,
        charge_end_voltage_v,
        charge_end_current_a,
        lag(charge_end_voltage_v) over (
            partition by equipment_id order by charge_end_voltage_v
        ) as next_lower_voltage_v

    from swings
    where
        direction = 'charge'
        and charge_end_current_a <= 0.5 * charge_max_current_a
        and charge_end_voltage_v >= charge_max_voltage_v - {{ var('upper_voltage_margin_v') }}

),

-- The highest voltage at which more than one charge was held: a single one is an accident, unless
-- there are no others.
held_voltages as (

    select
        equipment_id,
        coalesce(
            max(
                case
                    when
                        charge_end_voltage_v
                        <= next_lower_voltage_v + {{ var('upper_voltage_margin_v') }}
                        then charge_end_voltage_v
                end
            ),
            max(charge_end_voltage_v)
        ) as held_voltage_v

    from held_charges
    group by equipment_id

),

upper_limits as (

    select
        profiles.equipment_id,
        coalesce(profiles.v_max_v, held_voltages.held_voltage_v) as upper_limit_v,
        case
            when profiles.v_max_v is not null then 'profile'
            when held_voltages.held_voltage_v is not null then 'seen'
        end as upper_limit_source

    from profiles
    left join held_voltages on profiles.equipment_id = held_voltages.equipment_id

),

-- The current with which the charges at the upper limit ended.
held_currents as (

    select
        held_charges.equipment_id,
        {{ collect('held_charges.charge_end_current_a') }} as end_currents

    from held_charges
    inner join upper_limits on held_charges.equipment_id = upper_limits.equipment_id
    where
        held_charges.charge_end_voltage_v
        >= upper_limits.upper_limit_v - {{ var('upper_voltage_margin_v') }}
    group by held_charges.equipment_id

),

-- The end of a discharge, for cells whose lower limit is not known: an empty cell's voltage falls
-- several times as steeply as in the middle of the discharge.
sloped_readings as (

    select
        swings.equipment_id,
        swings.test_key,
        swings.swing_number,
        swings.discharge_end_voltage_v,
        readings.voltage_v,
        (readings.level_ah - swings.end_level_ah) / nullif(swings.net_ah, 0.0) as share_left

    from swings
    inner join profiles
        on swings.equipment_id = profiles.equipment_id and profiles.v_min_v is null
    inner join readings
        on
            swings.test_key = readings.test_key
            and swings.swing_number = readings.swing_number
            and readings.phase = 'discharge'
    where swings.direction = 'discharge'

),

discharge_slopes as (

    select
        equipment_id,
        test_key,
        swing_number,
        max(discharge_end_voltage_v) as end_voltage_v,
        min_by(voltage_v, abs(share_left - 0.1)) as voltage_10_v,
        min_by(share_left, abs(share_left - 0.1)) as share_10,
        min_by(voltage_v, abs(share_left - 0.3)) as voltage_30_v,
        min_by(share_left, abs(share_left - 0.3)) as share_30,
        min_by(voltage_v, abs(share_left - 0.7)) as voltage_70_v,
        min_by(share_left, abs(share_left - 0.7)) as share_70

    from sloped_readings
    group by equipment_id, test_key, swing_number

),

emptied as (

    select
        equipment_id,
        {{ collect('end_voltage_v') }} as emptied_voltages

    from discharge_slopes
    where
        (voltage_10_v - end_voltage_v) / nullif(share_10, 0.0)
        >= {{ var('empty_slope_ratio') }}
        * (voltage_70_v - voltage_30_v) / nullif(share_70 - share_30, 0.0)
    group by equipment_id

),

joined as (

    select
        profiles.equipment_id,
        upper_limits.upper_limit_v,
        coalesce(profiles.v_min_v, {{ array_median('emptied.emptied_voltages') }})
            as lower_limit_v,
        coalesce(profiles.cutoff_current_a, {{ array_median('held_currents.end_currents') }})
            as cutoff_current_a,
        case
            when profiles.cutoff_current_a is not null then 'profile'
            when held_currents.end_currents is not null then 'seen'
        end as cutoff_current_source,
        upper_limits.upper_limit_source,
        case
            when profiles.v_min_v is not null then 'profile'
            when emptied.emptied_voltages is not null then 'seen'
        end as lower_limit_source

    from profiles
    left join upper_limits on profiles.equipment_id = upper_limits.equipment_id
    left join held_currents on profiles.equipment_id = held_currents.equipment_id
    left join emptied on profiles.equipment_id = emptied.equipment_id

),

final as (

    select
        *,
        case upper_limit_source
            when 'profile'
                then 'upper limit ' || {{ shown('upper_limit_v', 2) }} || ' V of the profile'
            when 'seen'
                then
                    'upper limit ' || {{ shown('upper_limit_v', 2) }}
                    || ' V, the highest voltage at which a charge was held'
            else 'upper limit not known: no profile names it and no charge was held at a voltage'
        end
        || '; '
        || case lower_limit_source
            when 'profile'
                then 'lower limit ' || {{ shown('lower_limit_v', 2) }} || ' V of the profile'
            when 'seen'
                then
                    'lower limit ' || {{ shown('lower_limit_v', 2) }}
                    || ' V, the median end of the discharges whose voltage falls steeply there'
            else
                'lower limit not known: no profile names it and no discharge ends in the steep fall'
                || ' of an empty cell'
        end as limits_reason

    from joined

)

select * from final
