-- Highest voltage over time, by the column names of the MotherDuck design (DuckDB only)
select
    max("voltage(v)") as voltage_max_v,
    streamed_at
from {{ ref('battery_ts') }}
group by streamed_at
order by streamed_at desc
