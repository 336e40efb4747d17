{#-
    Models that are built part by part on DuckDB: by event day, or by equipment. Only the parts whose
    inputs are not the ones that they were built from are built, in batches of so many readings that
    a build of any size fits into the memory; all in one transaction. On BigQuery, which has memory
    of its own, the same models are incremental ones or plain tables.

    A model names its inputs in `meta`: the first one counts its readings. With `joins` as written
    DuckDB keeps the order and the sides of its joins, where it takes a batch for a hundredth of what
    it is and would build the tables of its joins on the wrong side. `model_parts` has, for each
    part of each such model, the version of what it was built from: the code, and for each input the
    version of its part, or a hash of its rows. So a build that failed halfway, or one of a few models,
    leaves no model out of date; and after a change of its formula a model is rebuilt.
-#}

{#- What the models below are on this warehouse. -#}
{%- macro by_part(otherwise) -%}
    {{ return(adapter.dispatch('by_part')(otherwise)) }}
{%- endmacro -%}

{%- macro default__by_part(otherwise) -%} {{ return('by_part') }} {%- endmacro -%}

{%- macro bigquery__by_part(otherwise) -%} {{ return(otherwise) }} {%- endmacro -%}

{#- The condition that leaves a batch's rows: of equipment_id, or of recorded_at. -#}
{%- macro is_in_batch() -%}
    {{ return("'[batch]' is not null" if model['resource_type'] == 'model' else 'true') }}
{%- endmacro -%}

{#- How many numbers other parts have taken: a model that numbers its rows continues after them. -#}
{%- macro numbers_taken() -%}
    {{ return(adapter.dispatch('numbers_taken')()) }}
{%- endmacro -%}

{%- macro default__numbers_taken() -%}
    {{ return("length('[numbers]')" if model['resource_type'] == 'model' else '0') }}
{%- endmacro -%}

{%- macro bigquery__numbers_taken() -%} {{ return('0') }} {%- endmacro -%}

{#- Where the versions are kept. -#}
{%- macro model_parts() -%}
    {{ return(api.Relation.create(
        database=target.database, schema=target.schema, identifier='model_parts'
    )) }}
{%- endmacro -%}

{#-
    Before a run: the table of the versions is there, and what the last complete build was made of
    counts no longer.
-#}
{%- macro begin_run() -%}
    {{ return(adapter.dispatch('begin_run')()) }}
{%- endmacro -%}

{%- macro default__begin_run() -%}
    create table if not exists {{ model_parts() }} (
        model_name varchar not null,
        part varchar not null,
        readings bigint not null,
        version varchar not null,
        is_checked boolean not null
    );
    create table if not exists {{ model_parts().incorporate(path={'identifier': 'model_builds'}) }} (
        made_of varchar not null,
        leaves varchar not null,
        told varchar not null,
        built_at timestamptz not null
    );
    delete from {{ model_parts().incorporate(path={'identifier': 'model_builds'}) }}
{%- endmacro -%}

{%- macro bigquery__begin_run() -%}{%- endmacro -%}

{#- Is a model built by equipment here? -#}
{%- macro is_by_equipment(node) -%}
    {{ return(
        node['config']['materialized'] == 'by_part' and node['config']['meta']['part'] == 'equipment'
    ) }}
{%- endmacro -%}

{#- The node of this project's graph that a model's name stands for. -#}
{%- macro node_of(name) -%}
    {{ return(graph.nodes['model.' ~ project_name ~ '.' ~ name]) }}
{%- endmacro -%}

{#- Has a model any parts? One that an older version of the project built has none. -#}
{%- macro has_parts(name) -%}
    {%- set query -%}
        select 1 from {{ model_parts() }} where model_name = '{{ name }}' limit 1
    {%- endset -%}
    {{ return(run_query(query).rows | length > 0) }}
{%- endmacro -%}

{#- The parts of an input with the readings and the version of each. -#}
{%- macro versions_of(name, part) -%}
    {%- if part == 'day' -%}
        select
            cast({{ utc_date('recorded_at') }} as varchar) as part,
            count(*) as readings,
            count(*) || '|' || sum({{ content_hash() }}) as version
        from {{ ref(name) }}
        where {{ is_usable_reading() }}
        group by all
    {%- elif is_by_equipment(node_of(name)) and has_parts(name) -%}
        select part, readings, version
        from {{ model_parts() }}
        where model_name = '{{ name }}'
    {%- elif name == 'battery_cleaned' -%}
        select
            equipment_id as part,
            count(*) as readings,
            sum(deliveries) || '|' || sum(content_hash) as version
        from {{ ref(name) }}
        group by all
    {%- else -%}
        select
            equipment_id as part,
            count(*) as readings,
            cast(sum(hash(input)) as varchar) as version
        from {{ ref(name) }} as input
        where equipment_id is not null
        group by all
    {%- endif -%}
{%- endmacro -%}

{#- The views that a model reads: their code is code of its own. -#}
{%- macro views_below(node) -%}
    {%- set views = [] -%}
    {%- for name in node['depends_on']['nodes'] if name in graph.nodes -%}
        {%- set input = graph.nodes[name] -%}
        {%- if input['config']['materialized'] == 'view' -%}
            {%- do views.append(input['alias']) -%}
            {%- do views.extend(views_below(input)) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(views) }}
{%- endmacro -%}

{#- The parts that this model is to have, with the readings and the version of each. -#}
{%- macro wanted_parts(code) -%}
    {%- set meta = model['config']['meta'] -%}
    {%- set views = [] -%}
    {%- for view in views_below(model) | unique | sort -%}
        {%- do views.append("'" ~ view ~ "'") -%}
    {%- endfor -%}
    select
        input_0.part,
        input_0.readings,
        md5(
            '{{ local_md5(code | replace('"' ~ this.database ~ '".', '')) }}'
            || coalesce((
                -- DuckDB keeps the names after EXCLUDE in no order
                select
                    replace(
                        string_agg(
                            regexp_replace(sql, 'EXCLUDE \([^)]*\)', '', 'g'), ';' order by view_name
                        ),
                        '{{ this.database }}.', ''
                    )
                from duckdb_views()
                where
                    database_name = '{{ this.database }}'
                    and schema_name = '{{ this.schema }}'
                    and view_name in ({{ (views or ["''"]) | join(', ') }})
            ), '')
            {% for name in meta['inputs'] %} || '|' || coalesce(input_{{ loop.index0 }}.version, ''){% endfor %}
        ) as version
    from ({{ versions_of(meta['inputs'][0], meta['part']) }}) as input_0
    {% for name in meta['inputs'][1:] %}
    left join ({{ versions_of(name, meta['part']) }}) as input_{{ loop.index }}
        on input_0.part = input_{{ loop.index }}.part
    {% endfor %}
{%- endmacro -%}

{#- The condition of the rows of some parts; without any that of no row. -#}
{%- macro is_of_parts(parts, kind, table='') -%}
    {%- if kind == 'equipment' -%} {{ return(is_among(table ~ 'equipment_id', parts)) }} {%- endif -%}
    {%- set days = [] -%}
    {%- for part in parts | sort -%}
        {%- do days.append(modules.datetime.date.fromisoformat(part)) -%}
    {%- endfor -%}
    {{ return(is_on_days(table ~ 'recorded_at', days)) }}
{%- endmacro -%}

{#-
    `code` with the views that it reads, where they read batches too, replaced by temporary ones of
    this batch: DuckDB filters no earlier than where a view's parts that are used twice are kept.
-#}
{%- macro through_views_of_batch(code, condition) -%}
    {%- set ns = namespace(code=code) -%}
    {%- for name in model['depends_on']['nodes'] if name in graph.nodes -%}
        {%- set node = graph.nodes[name] -%}
        {%- if node['config']['materialized'] == 'view' and 'is_in_batch()' in node['raw_code'] -%}
            {%- set view = ref(node['name']) -%}
            {%- set made = run_query(
                "select sql from duckdb_views() where database_name = '" ~ view.database
                ~ "' and schema_name = '" ~ view.schema ~ "' and view_name = '" ~ view.identifier ~ "'"
            ).rows[0][0] -%}
            {%- set query = made[made.index(' AS ') + 4:] -%}
            {%- set twin = view.identifier ~ '_batch' -%}
            {#- A view's text names its tables without the database. -#}
            {%- do run_query('use ' ~ this.include(identifier=false)) -%}
            {%- do run_query(
                'create or replace temp view ' ~ twin ~ ' as '
                ~ query | replace("('[batch]' IS NOT NULL)", '(' ~ condition ~ ')')
            ) -%}
            {%- set ns.code = ns.code | replace(view | string, 'temp.' ~ twin) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(ns.code) }}
{%- endmacro -%}


{#- Builds a model so. -#}
{%- macro built_by_part() -%}
    {%- set meta = model['config']['meta'] -%}
    {%- set existing = load_cached_relation(this) -%}
    {%- set target_relation = this.incorporate(type='table') -%}
    {%- set new = make_intermediate_relation(target_relation) -%}
    {%- set former_type = 'table' if existing is none else existing.type -%}
    {%- set former = make_backup_relation(target_relation, former_type) -%}
    {{ drop_relation_if_exists(load_cached_relation(new)) }}
    {{ drop_relation_if_exists(load_cached_relation(former)) }}
    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {#- Which parts are not as they are to be; one of which no reading is left has no version. -#}
    {%- set states -%}
        select
            coalesce(wanted.part, built.part) as part,
            coalesce(wanted.readings, 0) as readings,
            coalesce(wanted.version, '') as version,
            coalesce(wanted.version <> built.version, true) as is_changed
        from ({{ wanted_parts(sql) }}) as wanted
        full join (
            select part, version from {{ model_parts() }} where model_name = '{{ model['name'] }}'
        ) as built on wanted.part = built.part
        order by part
    {%- endset -%}
    {%- set states = run_query(states).rows -%}
    {%- set columns = [] -%}
    {%- if existing is not none -%}
        {%- set there = adapter.get_columns_in_relation(existing) -%}
        {%- set columns = there | map(attribute='name') | map('lower') | list -%}
    {%- endif -%}
    {%- set ns = namespace(all=0, changed=0, lacks=false) -%}
    {%- for name in model['columns'] if name | lower not in columns -%}
        {%- set ns.lacks = true -%}
    {%- endfor -%}
    {%- for row in states -%}
        {%- set ns.all = ns.all + row[1] -%}
        {%- if row[3] -%} {%- set ns.changed = ns.changed + row[1] -%} {%- endif -%}
    {%- endfor -%}
    {#- Where all is to be built anyway, a new table is smaller and sooner there. -#}
    {%- set is_rebuilt = (
        existing is none or not existing.is_table or should_full_refresh() or ns.lacks
        or ns.changed == ns.all and ns.all > 0
    ) -%}
    {%- set changed = [] -%}
    {%- for row in states if is_rebuilt or row[3] -%} {%- do changed.append(row) -%} {%- endfor -%}

    {#- Parts together until there are enough readings for a batch. -#}
    {%- set batches = [] -%}
    {%- set fill = namespace(parts=[], readings=0) -%}
    {%- for row in changed if row[2] -%}
        {%- if fill.parts and fill.readings + row[1] > var('batch_readings') -%}
            {%- do batches.append(fill.parts) -%}
            {%- set fill.parts = [] -%}
            {%- set fill.readings = 0 -%}
        {%- endif -%}
        {%- do fill.parts.append(row[0]) -%}
        {%- set fill.readings = fill.readings + row[1] -%}
    {%- endfor -%}
    {%- if fill.parts or is_rebuilt and not batches -%}
        {%- do batches.append(fill.parts) -%}
    {%- endif -%}

    {%- set into = new if is_rebuilt else target_relation -%}
    {%- if changed and not is_rebuilt -%}
        {%- set names = changed | map(attribute=0) | list -%}
        {%- do stated(
            'leave',
            'delete from ' ~ target_relation ~ ' where ' ~ is_of_parts(names, meta['part'])
        ) -%}
    {%- endif -%}
    {%- if batches and meta.get('joins') == 'as written' -%}
        {%- do run_query("set disabled_optimizers = 'join_order,build_side_probe_side'") -%}
    {%- endif -%}
    {%- for parts in batches -%}
        {%- set code = sql | replace("'[batch]' is not null", is_of_parts(parts, meta['part'])) -%}
        {%- set code = through_views_of_batch(code, is_of_parts(parts, meta['part'])) -%}
        {%- set first = is_rebuilt and loop.first -%}
        {%- if "length('[numbers]')" in code -%}
            {%- set taken = 0 if first else run_query(
                'select coalesce(max(' ~ meta['number'] ~ '), 0) from ' ~ into
            ).rows[0][0] -%}
            {%- set code = code | replace("length('[numbers]')", taken | string) -%}
        {%- endif -%}
        {%- if first -%} {%- set code = create_table_as(False, into, code) -%}
        {%- else -%} {%- set code = 'insert into ' ~ into ~ ' by name select * from (' ~ code ~ ')' -%}
        {%- endif -%}
        {%- do stated('main' if loop.last else 'batch', code) -%}
    {%- endfor -%}
    {%- if batches and meta.get('joins') == 'as written' -%}
        {%- do run_query('reset disabled_optimizers') -%}
    {%- endif -%}
    {%- if not batches -%} {%- do stated('main', "select 'nothing new'") -%} {%- endif -%}

    {%- set rows = [] -%}
    {%- for row in changed if row[2] -%}
        {%- set name = text_literal(model['name']) ~ ', ' ~ text_literal(row[0]) -%}
        {%- do rows.append('(' ~ name ~ ', ' ~ row[1] ~ ", '" ~ row[2] ~ "', false)") -%}
    {%- endfor -%}
    {%- if changed or is_rebuilt -%}
        {%- do stated(
            'forget',
            'delete from ' ~ model_parts() ~ ' where model_name = ' ~ text_literal(model['name'])
            ~ ('' if is_rebuilt else ' and ' ~ is_among('part', changed | map(attribute=0) | list))
        ) -%}
    {%- endif -%}
    {%- if rows -%}
        {%- do stated('note', 'insert into ' ~ model_parts() ~ ' values ' ~ rows | join(', ')) -%}
    {%- endif -%}

    {%- if is_rebuilt -%}
        {%- if existing is not none -%}
            {{ adapter.rename_relation(existing, former) }}
        {%- endif -%}
        {{ adapter.rename_relation(new, target_relation) }}
    {%- endif -%}
    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {%- do persist_docs(target_relation, model) -%}
    {{ adapter.commit() }}
    {{ drop_relation_if_exists(load_cached_relation(former)) }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}
    {{ return({'relations': [target_relation]}) }}
{%- endmacro -%}

{#-
    Data tests look at the parts that were built since they were last tested. `python -m
    pipeline.models` notes which were, and --check=all that none was.
-#}
{%- macro is_unchecked(name, table='') -%}
    {{ return(adapter.dispatch('is_unchecked')(name, table)) }}
{%- endmacro -%}

{%- macro default__is_unchecked(name, table) -%}
    {%- if not execute -%} {{ return('true') }} {%- endif -%}
    {%- set node = graph.nodes.get('model.' ~ project_name ~ '.' ~ name) -%}
    {%- if not node or node['config']['materialized'] != 'by_part' -%}
        {{ return('true') }}
    {%- endif -%}
    {%- if load_relation(model_parts()) is none -%} {{ return('true') }} {%- endif -%}
    {%- set states = run_query(
        "select part, is_checked from " ~ model_parts() ~ " where model_name = '" ~ name ~ "'"
        ~ " order by part"
    ).rows -%}
    {%- set parts = [] -%}
    {%- for row in states if not row[1] -%} {%- do parts.append(row[0]) -%} {%- endfor -%}
    {%- if parts | length == states | length or parts | length > 2000 -%}
        {{ return('true') }}
    {%- endif -%}
    {{ return(is_of_parts(parts, node['config']['meta']['part'], table)) }}
{%- endmacro -%}

{%- macro bigquery__is_unchecked(name, table) -%} {{ return('true') }} {%- endmacro -%}

{#- dbt's own, which gives a generic test its rows, with that condition beside the test's. -#}
{%- macro get_where_subquery(relation) -%}
    {%- set conditions = [] -%}
    {%- if config.get('where', '') -%}
        {%- do conditions.append('(' ~ config.get('where') ~ ')') -%}
    {%- endif -%}
    {%- set unchecked = is_unchecked(relation.identifier) -%}
    {%- if unchecked != 'true' -%} {%- do conditions.append(unchecked) -%} {%- endif -%}
    {%- if not conditions -%} {{ return(relation) }} {%- endif -%}
    {%- set condition = conditions | join(' and ') -%}
    {{ return('(select * from ' ~ relation ~ ' where ' ~ condition ~ ') dbt_subquery') }}
{%- endmacro -%}
