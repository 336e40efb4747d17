-- Count rows by source file
select
    source_file,
    count(*) as readings
from {{ ref('battery_ts') }}
group by source_file
