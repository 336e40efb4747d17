with

steps as (

    select * from {{ ref('battery_steps') }}

),

resistances as (

    select * from {{ ref('battery_resistance') }}

),

discharges as (

    select
        test_key,
        test_cycle,
        cycle_restarts,
        step_run,
        discharge_ah,
        -- the step before it in the cycle; a discharge in several steps begins with its first
        coalesce(
            lag(direction) over (
                partition by test_key, test_cycle, cycle_restarts
                order by step_run
            ),
            'none'
        ) <> 'discharge' as is_first,
        direction

    from steps

),

with_runs as (

    select
        *,
        max(case when is_first then step_run end) over (
            partition by test_key, test_cycle, cycle_restarts
            order by step_run
            rows between unbounded preceding and current row
        ) as first_run,
        max(discharge_ah) over (partition by test_key, test_cycle, cycle_restarts)
            as largest_ah

    from discharges
    where direction = 'discharge'

),

-- The step that discharged most, the earliest of such that are as good as equal (pulses).
main_steps as (

    select
        test_key,
        test_cycle,
        cycle_restarts,
        min_by(first_run, step_run) as step_run

    from with_runs
    where discharge_ah >= 0.99 * largest_ah
    group by test_key, test_cycle, cycle_restarts

),

mid_charges as (

    select
        test_key,
        test_cycle,
        cycle_restarts,
        coalesce(dc_resistance_30s_ocv_ohm, dc_resistance_10s_ocv_ohm)
            as dc_resistance_mid_charge_ohm,
        cast(
            case when dc_resistance_30s_ocv_ohm is not null then 30 else 10 end
            as {{ float_type() }}
        ) as dc_resistance_mid_charge_s

    from resistances
    where
        direction = 'discharge'
        -- from rest
        and abs(current_before_a) <= 0.05 * abs(current_a)
        and abs(charge_level - 0.5) <= {{ var('resistance_mid_charge_span') }}
        and coalesce(dc_resistance_30s_ocv_ohm, dc_resistance_10s_ocv_ohm) is not null
    qualify
        row_number() over (
            partition by test_key, test_cycle, cycle_restarts
            order by abs(charge_level - 0.5) asc, step_run asc
        ) = 1

),

final as (

    select
        main_steps.test_key,
        main_steps.test_cycle,
        main_steps.cycle_restarts,
        main_steps.step_run,
        resistances.dc_resistance_10s_ohm,
        resistances.dc_resistance_30s_ohm,
        resistances.dc_resistance_30s_ocv_ohm,
        case
            when resistances.step_run is null
                then 'current: changes by too little as the discharge begins'
            else resistances.dc_resistance_30s_reason
        end as dc_resistance_reason,
        mid_charges.dc_resistance_mid_charge_ohm,
        mid_charges.dc_resistance_mid_charge_s

    from main_steps
    left join resistances
        on
            main_steps.test_key = resistances.test_key
            and main_steps.step_run = resistances.step_run
    left join mid_charges
        on
            main_steps.test_key = mid_charges.test_key
            and main_steps.test_cycle = mid_charges.test_cycle
            and main_steps.cycle_restarts = mid_charges.cycle_restarts

)

select * from final
