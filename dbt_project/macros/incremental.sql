{#-
    What the incremental models share. They decide by what is in the tables, not by times: a file's
    readings arrive with the file's age, and a backlog is read days after its messages were sent, so
    no time of the last build tells what is new. The column `deliveries` does: it adds up to the rows
    that the source had when a day, or an equipment, was built; and `content_hash`, whose sum changes
    with any reading's values: a correction takes a row's place.
-#}

{#-
    Whether a model adds to the table it built before. One that lacks a column comes from an older
    version of the project and is rebuilt. A unit test has no such table.
-#}
{%- macro adds_to_itself() -%}
    {%- if model['resource_type'] != 'model' or not is_incremental() -%}
        {{ return(false) }}
    {%- endif -%}
    {%- set columns = adapter.get_columns_in_relation(this) -%}
    {%- set there = columns | map(attribute='name') | map('lower') | list -%}
    {%- for name in model['columns'] if name not in there -%} {{ return(false) }} {%- endfor -%}
    {{ return(true) }}
{%- endmacro -%}

{#-
    The first column of a query as a list; none where it is so long that a filter is no gain, or
    would pass the length that BigQuery allows a query.
-#}
{%- macro listed(query) -%}
    {%- set values = run_query(query).columns[0].values() -%}
    {{ return(values if values | length <= 2000 else none) }}
{%- endmacro -%}

{#- Is `value`, a text, listed? True where the list is none. -#}
{%- macro is_among(value, texts) -%}
    {%- if texts is none -%} {{ return('true') }} {%- endif -%}
    {%- if not texts -%} {{ return('false') }} {%- endif -%}
    {%- set literals = [] -%}
    {%- for text in texts -%} {%- do literals.append(text_literal(text)) -%} {%- endfor -%}
    {{ return(value ~ ' in (' ~ literals | join(', ') ~ ')') }}
{%- endmacro -%}

{#-
    Is `ts` on one of the days, which are in order? True where the list is none. Days in a row are
    one comparison with constants: that, and no function of the column, lets a warehouse leave the
    other partitions unread.
-#}
{%- macro is_on_days(ts, days) -%}
    {%- if days is none -%} {{ return('true') }} {%- endif -%}
    {%- if not days -%} {{ return('false') }} {%- endif -%}
    {%- set next = modules.datetime.timedelta(days=1) -%}
    {%- set spans = [] -%}
    {%- for day in days -%}
        {%- if spans and spans[-1][1] == day -%} {%- set start = spans.pop()[0] -%}
        {%- else -%} {%- set start = day -%}
        {%- endif -%}
        {%- do spans.append((start, day + next)) -%}
    {%- endfor -%}
    {%- set conditions = [] -%}
    {%- for start, end in spans -%}
        {%- do conditions.append(
            '(' ~ ts ~ ' >= ' ~ utc_midnight(start) ~ ' and ' ~ ts ~ ' < ' ~ utc_midnight(end) ~ ')'
        ) -%}
    {%- endfor -%}
    {{ return('(' ~ conditions | join(' or ') ~ ')') }}
{%- endmacro -%}

{#-
    What a row adds to `content_hash`. Not the whole digest, which is a hash of 64 bits: a sum of
    many of 40 bits, of either sign, is still an integer. No XOR: there two copies cancel out.
-#}
{%- macro content_hash() -%} mod(coalesce(content_id, 0), 1099511627689) {%- endmacro -%}

{#- The days whose readings are not the ones that `battery_cleaned` was built from. -#}
{%- macro changed_days(delivered) -%}
    {%- set query -%}
        select delivered.day
        from (
            select
                {{ utc_date('recorded_at') }} as day,
                count(*) as deliveries,
                sum({{ content_hash() }}) as content_hash
            from {{ delivered }}
            where {{ is_usable_reading() }}
            group by day
        ) as delivered
        left join (
            select
                {{ utc_date('recorded_at') }} as day,
                sum(deliveries) as deliveries,
                sum(content_hash) as content_hash
            from {{ this }}
            group by day
        ) as built on delivered.day = built.day
        where
            built.deliveries is null
            or built.deliveries <> delivered.deliveries
            or built.content_hash <> delivered.content_hash
        order by delivered.day
    {%- endset -%}
    {{ return(listed(query)) }}
{%- endmacro -%}

{#-
    The equipment whose readings or limits are not the ones that `battery_features` was built from.
-#}
{%- macro changed_equipment(sequence) -%}
    {%- set query -%}
        select sequenced.equipment_id
        from (
            select
                equipment_id,
                sum(deliveries) as deliveries,
                sum(content_hash) as content_hash,
                max(limits_hash) as limits_hash
            from {{ sequence }}
            group by equipment_id
        ) as sequenced
        left join (
            select
                equipment_id,
                sum(deliveries) as deliveries,
                sum(content_hash) as content_hash,
                max(limits_hash) as limits_hash
            from {{ this }}
            group by equipment_id
        ) as built on sequenced.equipment_id = built.equipment_id
        where
            built.deliveries is null
            or built.deliveries <> sequenced.deliveries
            or built.content_hash <> sequenced.content_hash
            or built.limits_hash <> sequenced.limits_hash
        order by sequenced.equipment_id
    {%- endset -%}
    {{ return(listed(query)) }}
{%- endmacro -%}

{#- What a reading must have to count. -#}
{%- macro is_usable_reading() -%}
    reading_id is not null
    and equipment_id is not null
    and recorded_at is not null
    and {{ finite('voltage_v') }} is not null
    and {{ finite('current_a') }} is not null
{%- endmacro -%}

{#- Tells whether the limits or settings that features are computed with have changed. -#}
{%- macro limits_hash(equipment) -%}
    {%- set parts = [] -%}
    {%- for name in ['nominal_capacity_ah', 'rated_current_a', 'v_max_v', 'gap_s', 'gap_cv_s'] -%}
        {%- do parts.append("coalesce(cast(" ~ equipment ~ "." ~ name ~ " as string), '')") -%}
    {%- endfor -%}
    {%- set settings = [
        var('rest_current_fraction'), var('least_swing_fraction'), var('full_swing_fraction'),
        var('gap_interval_factor'), var('counter_restart_share'), var('counter_flow_factor'),
        var('part_clock_noise_s'), var('part_interval_factor'), var('part_state_tolerance'),
        var('clock_tolerance'), var('charge_noise_share')
    ] -%}
    {%- do parts.append("'" ~ settings | join('|') ~ "'") -%}
    {{ text_hash(parts | join(" || '|' || ")) }}
{%- endmacro -%}

{#-
    All of `built`, and what stands beside it in the days that are replaced. On DuckDB rows are
    replaced by their key; BigQuery replaces whole days: there the rows of the other equipment on the
    days of the changed one are taken along.
-#}
{%- macro with_rest_of_days(built, changed, sequence) -%}
    {{ return(adapter.dispatch('with_rest_of_days')(built, changed, sequence)) }}
{%- endmacro -%}

{%- macro default__with_rest_of_days(built, changed, sequence) -%}
    select * from {{ built }}
{%- endmacro -%}

{%- macro bigquery__with_rest_of_days(built, changed, sequence) -%}
    {%- if not changed -%}
        select * from {{ built }}
    {%- else -%}
        {%- set query -%}
            select distinct {{ utc_date('recorded_at') }} as day
            from {{ sequence }}
            where {{ is_among('equipment_id', changed) }}
            order by day
        {%- endset -%}
        {%- set columns = adapter.get_columns_in_relation(this) | map(attribute='name') | join(', ') -%}
        select {{ columns }} from {{ built }}
        union all
        select {{ columns }}
        from {{ this }}
        where
            not ({{ is_among('equipment_id', changed) }})
            and {{ is_on_days('recorded_at', listed(query)) }}
    {%- endif -%}
{%- endmacro -%}

{#- How new rows replace old ones. -#}
{%- macro replacement() -%}
    {{ return(adapter.dispatch('replacement')()) }}
{%- endmacro -%}

{%- macro default__replacement() -%} {{ return('delete+insert') }} {%- endmacro -%}

{%- macro bigquery__replacement() -%} {{ return('insert_overwrite') }} {%- endmacro -%}

{#- Layout, which only BigQuery has. -#}
{%- macro partitions(column, data_type='timestamp', granularity='day') -%}
    {{ return(adapter.dispatch('partitions')(column, data_type, granularity)) }}
{%- endmacro -%}

{%- macro default__partitions(column, data_type, granularity) -%} {{ return(none) }} {%- endmacro -%}

{%- macro bigquery__partitions(column, data_type, granularity) -%}
    {{ return({'field': column, 'data_type': data_type, 'granularity': granularity}) }}
{%- endmacro -%}

{%- macro clusters(columns) -%}
    {{ return(adapter.dispatch('clusters')(columns)) }}
{%- endmacro -%}

{%- macro default__clusters(columns) -%} {{ return(none) }} {%- endmacro -%}

{%- macro bigquery__clusters(columns) -%} {{ return(columns) }} {%- endmacro -%}

{#-
    Rows that are read together stand together: DuckDB skips the groups of rows that have none of what
    is asked for. BigQuery clusters.
-#}
{%- macro in_order_of(column) -%}
    {{ return(adapter.dispatch('in_order_of')(column)) }}
{%- endmacro -%}

{%- macro default__in_order_of(column) -%} order by {{ column }} {%- endmacro -%}

{%- macro bigquery__in_order_of(column) -%}{%- endmacro -%}
