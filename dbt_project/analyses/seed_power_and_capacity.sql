-- Power and capacity from the cleaned readings. The capacity is the sum of the tester's counters as
-- they stand; battery_features.total_capacity_ah is the throughput.
select
    *,
    cast(voltage_v as {{ float_type() }}) * cast(current_a as {{ float_type() }}) as power_watt,
    cast(charge_capacity_ah as {{ float_type() }})
    + cast(discharge_capacity_ah as {{ float_type() }}) as total_capacity
from {{ ref('battery_cleaned') }}
