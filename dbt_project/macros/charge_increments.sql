{#-
    Charge and energy of each reading, as CTEs after `with_gains`: `with_integrals` holds the integrals
    of the current, `with_increments` what counts: the counters' gains, or an integral where the cycler
    has no such counter.
-#}
{%- macro charge_increments() -%}
with_integrals as (

    select
        *,
        case
            when not is_cell then null
            when is_impedance then 0.0
            else {{ integrated_increment('current_a', 'previous_current_a') }}
        end as dq_charge_integrated_ah,
        case
            when not is_cell then null
            when is_impedance then 0.0
            else {{ integrated_increment('-current_a', '-previous_current_a') }}
        end as dq_discharge_integrated_ah,
        case
            when not is_cell then null
            when is_impedance then 0.0
            else {{ integration_bound('current_a', 'previous_current_a') }}
        end as dq_charge_bound_ah,
        case
            when not is_cell then null
            when is_impedance then 0.0
            else {{ integration_bound('-current_a', '-previous_current_a') }}
        end as dq_discharge_bound_ah,
        -- what may have flowed in a gap: it is in no integral
        case
            when is_gap
                then
                    greatest(abs(current_a), abs(coalesce(previous_current_a, 0.0)))
                    * time_delta_s / 3600.0
            else 0.0
        end as dq_gap_ah

    from with_gains

),

with_increments as (

    select
        *,
        case
            when not is_cell then null
            when has_charge_capacity_ah then gained_charge_capacity_ah
            else dq_charge_integrated_ah
        end as dq_charge_ah,
        case
            when not is_cell then null
            when has_discharge_capacity_ah then gained_discharge_capacity_ah
            else dq_discharge_integrated_ah
        end as dq_discharge_ah,
        case
            when not is_cell then null
            when has_charge_energy_wh then gained_charge_energy_wh
            when is_impedance then 0.0
            else {{ integrated_increment('power_watt', 'previous_power_watt') }}
        end as de_charge_wh,
        case
            when not is_cell then null
            when has_discharge_energy_wh then gained_discharge_energy_wh
            when is_impedance then 0.0
            else {{ integrated_increment('-power_watt', '-previous_power_watt') }}
        end as de_discharge_wh,
        case
            when not is_cell then null
            when has_charge_capacity_ah or has_discharge_capacity_ah then 'counter'
            else 'integrated'
        end as charge_method

    from with_integrals

)
{%- endmacro -%}
