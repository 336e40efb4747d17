{{ config(cluster_by=clusters(['equipment_id', 'test_key'])) }}

with

swings as (

    select * from {{ ref('int_swing_totals') }}

),

limits as (

    select * from {{ ref('int_cell_limits') }}

),

equipment as (

    select * from {{ ref('dim_equipment') }}

),

judged as (

    select
        swings.*,
        equipment.nominal_capacity_ah,
        limits.cutoff_current_a,
        case
            when swings.direction = 'charge' then limits.upper_limit_v else limits.lower_limit_v
        end as limit_v,
        case
            when swings.direction = 'charge' then swings.charge_end_voltage_v
            else swings.discharge_end_voltage_v
        end as end_voltage_v,
        case
            when swings.direction = 'charge'
                then
                    swings.charge_max_voltage_v
                    >= limits.upper_limit_v - {{ var('upper_voltage_margin_v') }}
            else
                swings.discharge_end_voltage_v
                <= limits.lower_limit_v + {{ var('cutoff_voltage_margin_v') }}
        end as ends_at_limit,
        -- the charge was held at the limit until the current fell to the cut-off
        case
            when swings.direction = 'charge'
                then
                    coalesce(
                        swings.charge_end_current_a
                        <= limits.cutoff_current_a * case limits.cutoff_current_source
                            when 'profile' then {{ var('cutoff_current_factor') }}
                            else {{ var('seen_cutoff_current_factor') }}
                        end,
                        true
                    )
        end as ends_at_cutoff

    from swings
    left join limits on swings.equipment_id = limits.equipment_id
    left join equipment on swings.equipment_id = equipment.equipment_id

),

with_start as (

    select
        *,
        -- a swing that opens the test began at a level that nobody knows
        lag(ends_at_limit) over test as starts_at_limit,
        lag(ends_at_cutoff) over test as starts_at_cutoff,
        lag(end_voltage_v) over test as start_voltage_v,
        lag(charge_end_current_a) over test as start_current_a,
        lag(swing_number) over test is null as is_first_of_test,
        -- the same over tests: as far as the record shows, nothing happened between them
        coalesce(
            lag(ends_at_limit) over life and lag(direction) over life <> direction, false
        ) as follows_limit

    from judged
    window
        test as (partition by test_key order by swing_number),
        life as (partition by equipment_id order by started_at, test_key, swing_number)

),

with_full as (

    select
        *,
        case
            when ends_at_limit is null then null
            when not ends_at_limit then false
            when is_first_of_test then false
            else starts_at_limit
        end as is_full

    from with_start

),

with_scale as (

    select
        *,
        coalesce(
            nominal_capacity_ah,
            max(case when is_full and direction = 'discharge' then net_ah end) over (
                partition by equipment_id
            )
        ) as scale_ah

    from with_full

),

final as (

    select
        test_key || '|' || cast(swing_number as string) as swing_key,
        equipment_id,
        test_key,
        test_id,
        swing_number,
        test_cycle,
        cycle_restarts,
        direction,
        first_reading_seq,
        last_reading_seq,
        started_at,
        ended_at,
        readings,
        duration_s,
        loaded_time_s,
        rest_time_s,
        rests,
        load_changes,
        net_ah,
        net_wh,
        reverse_ah,
        net_ah / nullif(scale_ah, 0.0) as depth,
        mean_current_a,
        mean_current_a / nullif(scale_ah, 0.0) as rate_c,
        start_voltage_v,
        case when direction = 'discharge' then start_current_a end as start_current_a,
        end_voltage_v,
        case when direction = 'charge' then charge_end_current_a end as end_current_a,
        limit_v,
        starts_at_limit,
        ends_at_limit,
        follows_limit,
        case
            when direction = 'charge' then ends_at_cutoff
            when starts_at_limit then starts_at_cutoff
        end as is_held,
        is_full,
        case
            when is_full then null
            when limit_v is null
                then
                    case
                        when direction = 'charge' then 'the upper limit is not known'
                        else 'the lower limit is not known'
                    end
            when not ends_at_limit and direction = 'charge'
                then
                    'charged to ' || {{ shown('end_voltage_v', 2) }} || ' V, the limit is '
                    || {{ shown('limit_v', 2) }} || ' V'
            when not ends_at_limit
                then
                    'discharged to ' || {{ shown('end_voltage_v', 2) }} || ' V, the limit is '
                    || {{ shown('limit_v', 2) }} || ' V'
            when is_first_of_test
                then
                    'the test began with this ' || direction
                    || ': what level it started from is not known'
            when starts_at_limit is null
                then
                    case
                        when direction = 'charge' then 'the lower limit is not known'
                        else 'the upper limit is not known'
                    end
            else
                'started at ' || {{ shown('start_voltage_v', 2) }} || ' V, before the '
                || case when direction = 'charge' then 'lower' else 'upper' end || ' limit'
        end as partial_reason,
        gaps

    from with_scale

)

select * from final
