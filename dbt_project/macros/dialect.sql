{#-
    Where DuckDB and BigQuery differ. Every macro takes SQL expressions and returns one expression.
    The default is DuckDB (and so MotherDuck).
-#}

{#- 64-bit float; dbt.type_float() is 32-bit on DuckDB. -#}
{%- macro float_type() -%}
    {{ return(adapter.dispatch('float_type')()) }}
{%- endmacro -%}

{%- macro default__float_type() -%} double {%- endmacro -%}

{%- macro bigquery__float_type() -%} float64 {%- endmacro -%}

{#- A moment, to the microsecond, and an array of strings. -#}
{%- macro timestamp_type() -%}
    {{ return(adapter.dispatch('timestamp_type')()) }}
{%- endmacro -%}

{%- macro default__timestamp_type() -%} timestamptz {%- endmacro -%}

{%- macro bigquery__timestamp_type() -%} timestamp {%- endmacro -%}

{%- macro strings_type() -%}
    {{ return(adapter.dispatch('strings_type')()) }}
{%- endmacro -%}

{%- macro default__strings_type() -%} varchar[] {%- endmacro -%}

{%- macro bigquery__strings_type() -%} array<string> {%- endmacro -%}

{#- Seconds from `earlier` to `later`, to the microsecond. -#}
{%- macro seconds_between(earlier, later) -%}
    {{ return(adapter.dispatch('seconds_between')(earlier, later)) }}
{%- endmacro -%}

{%- macro default__seconds_between(earlier, later) -%}
    ((epoch_us({{ later }}) - epoch_us({{ earlier }})) / 1e6)
{%- endmacro -%}

{%- macro bigquery__seconds_between(earlier, later) -%}
    (timestamp_diff({{ later }}, {{ earlier }}, microsecond) / 1e6)
{%- endmacro -%}

{#- Microseconds since 1970, for keys that must not depend on how a timestamp prints. -#}
{%- macro epoch_micros(ts) -%}
    {{ return(adapter.dispatch('epoch_micros')(ts)) }}
{%- endmacro -%}

{%- macro default__epoch_micros(ts) -%} epoch_us({{ ts }}) {%- endmacro -%}

{%- macro bigquery__epoch_micros(ts) -%} unix_micros({{ ts }}) {%- endmacro -%}

{#- Start of the UTC hour. Independent of the session's time zone. -#}
{%- macro utc_hour(ts) -%}
    {{ return(adapter.dispatch('utc_hour')(ts)) }}
{%- endmacro -%}

{%- macro default__utc_hour(ts) -%}
    (date_trunc('hour', {{ ts }} at time zone 'UTC') at time zone 'UTC')
{%- endmacro -%}

{%- macro bigquery__utc_hour(ts) -%} timestamp_trunc({{ ts }}, hour, 'UTC') {%- endmacro -%}

{#- The UTC day. Independent of the session's time zone. -#}
{%- macro utc_date(ts) -%}
    {{ return(adapter.dispatch('utc_date')(ts)) }}
{%- endmacro -%}

{%- macro default__utc_date(ts) -%} cast({{ ts }} at time zone 'UTC' as date) {%- endmacro -%}

{%- macro bigquery__utc_date(ts) -%} date({{ ts }}, 'UTC') {%- endmacro -%}

{#- Does the whole of `text` match the RE2 pattern? -#}
{%- macro matches_fully(text, pattern) -%}
    {{ return(adapter.dispatch('matches_fully')(text, pattern)) }}
{%- endmacro -%}

{%- macro default__matches_fully(text, pattern) -%}
    regexp_full_match({{ text }}, {{ pattern }})
{%- endmacro -%}

{%- macro bigquery__matches_fully(text, pattern) -%}
    regexp_contains({{ text }}, concat('^(?:', {{ pattern }}, ')$'))
{%- endmacro -%}

{#-
    NaN, the infinities and what no measurement is in any unit become null: sums and products of the
    rest stay finite, and where they do not BigQuery fails the whole query.
-#}
{%- macro finite(value) -%}
    {{ return(adapter.dispatch('finite')(value)) }}
{%- endmacro -%}

{%- macro default__finite(value) -%}
    case when isfinite({{ value }}) and abs({{ value }}) < 1e12 then {{ value }} end
{%- endmacro -%}

{%- macro bigquery__finite(value) -%}
    case
        when not is_nan({{ value }}) and not is_inf({{ value }}) and abs({{ value }}) < 1e12
            then {{ value }}
    end
{%- endmacro -%}

{#- The start of a UTC day, given as a date of Jinja's. -#}
{%- macro utc_midnight(day) -%}
    {{ return(adapter.dispatch('utc_midnight')(day)) }}
{%- endmacro -%}

{%- macro default__utc_midnight(day) -%}
    {{ return("timestamptz '" ~ day ~ " 00:00:00+00'") }}
{%- endmacro -%}

{%- macro bigquery__utc_midnight(day) -%}
    {{ return("timestamp '" ~ day ~ " 00:00:00+00'") }}
{%- endmacro -%}

{#- A string literal. -#}
{%- macro text_literal(text) -%}
    {{ return(adapter.dispatch('text_literal')(text)) }}
{%- endmacro -%}

{%- macro default__text_literal(text) -%}
    {{ return("'" ~ text | replace("'", "''") ~ "'") }}
{%- endmacro -%}

{%- macro bigquery__text_literal(text) -%}
    {%- set escaped = text | replace('\\', '\\\\') | replace("'", "\\'") | replace('\n', '\\n') -%}
    {{ return("'" ~ escaped ~ "'") }}
{%- endmacro -%}

{#- A hash of `text`, comparable within one warehouse. -#}
{%- macro text_hash(text) -%}
    {{ return(adapter.dispatch('text_hash')(text)) }}
{%- endmacro -%}

{%- macro default__text_hash(text) -%} md5({{ text }}) {%- endmacro -%}

{%- macro bigquery__text_hash(text) -%} to_hex(md5({{ text }})) {%- endmacro -%}

{#- A hash of `text` as a number of 64 bits. -#}
{%- macro short_hash(text) -%}
    {{ return(adapter.dispatch('short_hash')(text)) }}
{%- endmacro -%}

{%- macro default__short_hash(text) -%} hash({{ text }}) {%- endmacro -%}

{%- macro bigquery__short_hash(text) -%} farm_fingerprint({{ text }}) {%- endmacro -%}

{#-
    A filter that leaves every row: the job's tables on BigQuery demand one on the column that they
    are partitioned by.
-#}
{%- macro in_every_partition(column) -%}
    {{ return(adapter.dispatch('in_every_partition')(column)) }}
{%- endmacro -%}

{%- macro default__in_every_partition(column) -%}{%- endmacro -%}

{%- macro bigquery__in_every_partition(column) -%}
    where {{ column }} >= timestamp '0001-01-01 00:00:00+00'
{%- endmacro -%}

{#- All columns of `relation` but these. -#}
{%- macro all_but(relation, columns) -%}
    {{ return(adapter.dispatch('all_but')(relation, columns)) }}
{%- endmacro -%}

{%- macro default__all_but(relation, columns) -%}
    {{ relation }}.* exclude ({{ columns | join(', ') }})
{%- endmacro -%}

{%- macro bigquery__all_but(relation, columns) -%}
    {{ relation }}.* except ({{ columns | join(', ') }})
{%- endmacro -%}

{#- Arrays ---------------------------------------------------------------------------------- -#}

{#- An array of strings, never null. -#}
{%- macro string_array(value) -%}
    {{ return(adapter.dispatch('string_array')(value)) }}
{%- endmacro -%}

{%- macro default__string_array(value) -%}
    coalesce({{ value }}, cast([] as varchar[]))
{%- endmacro -%}

{#- A repeated field is never null on BigQuery. -#}
{%- macro bigquery__string_array(value) -%} {{ value }} {%- endmacro -%}

{%- macro array_has(items, value) -%}
    {{ return(adapter.dispatch('array_has')(items, value)) }}
{%- endmacro -%}

{%- macro default__array_has(items, value) -%} list_contains({{ items }}, {{ value }}) {%- endmacro -%}

{%- macro bigquery__array_has(items, value) -%} ({{ value }} in unnest({{ items }})) {%- endmacro -%}

{%- macro array_size(items) -%}
    {{ return(adapter.dispatch('array_size')(items)) }}
{%- endmacro -%}

{%- macro default__array_size(items) -%} len({{ items }}) {%- endmacro -%}

{%- macro bigquery__array_size(items) -%} array_length({{ items }}) {%- endmacro -%}

{#- `from t cross join {{ unnest_as('t.items', 'item') }}`: one row per element. -#}
{%- macro unnest_as(items, name) -%}
    {{ return(adapter.dispatch('unnest_as')(items, name)) }}
{%- endmacro -%}

{%- macro default__unnest_as(items, name) -%}
    unnest({{ items }}) as unnested_{{ name }} ({{ name }})
{%- endmacro -%}

{%- macro bigquery__unnest_as(items, name) -%} unnest({{ items }}) as {{ name }} {%- endmacro -%}

{#- The whole numbers from `low` to `high`, both included; empty when low > high. -#}
{%- macro int_range(low, high) -%}
    {{ return(adapter.dispatch('int_range')(low, high)) }}
{%- endmacro -%}

{%- macro default__int_range(low, high) -%} generate_series({{ low }}, {{ high }}) {%- endmacro -%}

{%- macro bigquery__int_range(low, high) -%} generate_array({{ low }}, {{ high }}) {%- endmacro -%}

{#-
    Medians. BigQuery has neither an exact median aggregate nor a framed running one, so both are
    taken in two steps on either warehouse: collect the values into an array (an aggregate, or a
    window function when followed by `over`), then take array_median of that column one query
    level up.
-#}
{%- macro collect(value) -%}
    {{ return(adapter.dispatch('collect')(value)) }}
{%- endmacro -%}

{%- macro default__collect(value) -%}
    list({{ value }}) filter (where {{ value }} is not null)
{%- endmacro -%}

{%- macro bigquery__collect(value) -%} array_agg({{ value }} ignore nulls) {%- endmacro -%}

{#- As collect, for use with `over (...)`; the values must not be null. -#}
{%- macro collect_frame(value) -%}
    {{ return(adapter.dispatch('collect_frame')(value)) }}
{%- endmacro -%}

{%- macro default__collect_frame(value) -%} list({{ value }}) {%- endmacro -%}

{%- macro bigquery__collect_frame(value) -%} array_agg({{ value }}) {%- endmacro -%}

{%- macro array_median(items) -%}
    {{ return(adapter.dispatch('array_median')(items)) }}
{%- endmacro -%}

{%- macro default__array_median(items) -%} list_aggregate({{ items }}, 'median') {%- endmacro -%}

{%- macro bigquery__array_median(items) -%}
    (select percentile_cont(item, 0.5) over () from unnest({{ items }}) as item limit 1)
{%- endmacro -%}

{#- The exact median of a whole partition; to be followed by `over (partition by ...)`. -#}
{%- macro median(value) -%}
    {{ return(adapter.dispatch('median')(value)) }}
{%- endmacro -%}

{%- macro default__median(value) -%} median({{ value }}) {%- endmacro -%}

{%- macro bigquery__median(value) -%} percentile_cont({{ value }}, 0.5) {%- endmacro -%}

{#- An array of the values, strings, that are not null; in the order given. -#}
{%- macro known_values(values) -%}
    {{ return(adapter.dispatch('known_values')(values)) }}
{%- endmacro -%}

{%- macro default__known_values(values) -%}
    [item for item in [{{ values | join(', ') }}] if item is not null]
{%- endmacro -%}

{%- macro bigquery__known_values(values) -%}
    array(select item from unnest([{{ values | join(', ') }}]) as item where item is not null)
{%- endmacro -%}

{#- A quantile of a group; approximate on BigQuery (1 %). -#}
{%- macro quantile(value, fraction) -%}
    {{ return(adapter.dispatch('quantile')(value, fraction)) }}
{%- endmacro -%}

{%- macro default__quantile(value, fraction) -%}
    quantile_cont({{ value }}, {{ fraction }})
{%- endmacro -%}

{%- macro bigquery__quantile(value, fraction) -%}
    approx_quantiles({{ value }}, 100)[offset({{ (fraction * 100) | int }})]
{%- endmacro -%}

{#-
    The column names of the first MotherDuck design ("voltage(v)", "current(a)"). BigQuery's column
    names cannot hold parentheses, so there is nothing to add there.
-#}
{%- macro legacy_reading_columns() -%}
    {{ return(adapter.dispatch('legacy_reading_columns')()) }}
{%- endmacro -%}

{%- macro default__legacy_reading_columns() -%}
    , voltage_v as "voltage(v)", current_a as "current(a)"
{%- endmacro -%}

{%- macro bigquery__legacy_reading_columns() -%}{%- endmacro -%}

{#-
    The rows of `readings` without those of which another version counts: the newest, a version
    having arrived when its first copy did, or with the variable on_conflict as keep the first. On
    DuckDB the job itself leaves one. By time too, so that a filter on it reaches the table.
-#}
{%- macro current_version_of(readings, has_versions) -%}
    {{ return(adapter.dispatch('current_version_of')(readings, has_versions)) }}
{%- endmacro -%}

{%- macro default__current_version_of(readings, has_versions) -%}
    select * from {{ readings }}
{%- endmacro -%}

{#-
    A version that came together with its correction is in `readings_superseded` alone. If it comes
    again it is in `readings`, where it would look newer than its correction.
-#}
{%- macro bigquery__current_version_of(readings, has_versions) -%}
    {%- set superseded = source('pipeline', 'readings_superseded') -%}
    {%- if not has_versions -%} select * from {{ readings }}
    {%- else -%}
        {%- set direction = 'asc' if var('on_conflict') == 'keep' else 'desc' -%}
        {%- set former = {
            'recorded_at': 'timestamp', 'reading_id': 'string', 'content_id': 'bigint',
            'ingested_at': 'timestamp', 'source_file': 'string'
        } -%}
        select * except (arrived_first, file_first)
        from (
            select
                delivered.*,
                min(least(delivered.ingested_at, coalesce(former.arrived, delivered.ingested_at)))
                    over (this_version) as arrived_first,
                min(least(
                    coalesce(delivered.source_file, ''),
                    coalesce(former.first_file, delivered.source_file, '')
                )) over (this_version) as file_first
            from {{ readings }} as delivered
            left join (
                select
                    recorded_at,
                    reading_id,
                    content_id,
                    min(ingested_at) as arrived,
                    min(coalesce(source_file, '')) as first_file
                from ({{ all_or_none_of(superseded, former) }}) as every_former
                {{ in_every_partition('recorded_at') }}
                group by recorded_at, reading_id, content_id
            ) as former
                on
                    delivered.recorded_at = former.recorded_at
                    and delivered.reading_id = former.reading_id
                    and delivered.content_id = former.content_id
            window this_version as (
                partition by delivered.recorded_at, delivered.reading_id, delivered.content_id
            )
        ) as with_arrival
        -- what was written before there were versions is of the same one
        qualify coalesce(content_id, 0) = first_value(coalesce(content_id, 0)) over (
            partition by recorded_at, reading_id
            order by arrived_first {{ direction }}, file_first asc, content_id asc
            rows between unbounded preceding and unbounded following
        )
    {%- endif -%}
{%- endmacro -%}
