-- Highest voltage by time of sending
select
    max(cast(voltage_v as {{ float_type() }})) as voltage_max_v,
    streamed_at
from {{ ref('battery_ts') }}
group by streamed_at
order by streamed_at desc
