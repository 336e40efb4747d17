-- Power from voltage and current, by the column names of the MotherDuck design (DuckDB only)
select "voltage(v)" * "current(a)" as power
from {{ ref('battery_ts') }}
where "voltage(v)" is not null and "current(a)" is not null -- noqa: RF05
