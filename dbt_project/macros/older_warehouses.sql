{#-
    Warehouses made by older versions of the job: a table or column of the job's that came later is
    not there until the job has run once more. Until then it counts as empty.
-#}

{#- The column names of a table, in lower case; none where there is no such table. -#}
{%- macro column_names(relation) -%}
    {%- set columns = adapter.get_columns_in_relation(relation) or [] -%}
    {{ return(columns | map(attribute='name') | map('lower') | list) }}
{%- endmacro -%}

{#- The column `name`, or a null of its type under that name where the table lacks it. -#}
{%- macro column_or_null(name, data_type, there) -%}
    {%- if name in there or not there -%} {{ name }}
    {%- else -%} cast(null as {{ data_type }}) as {{ name }}
    {%- endif -%}
{%- endmacro -%}

{#- All of a table, or no row of its columns (a type by name) where there is no such table. -#}
{%- macro all_or_none_of(relation, columns) -%}
    {%- if column_names(relation) -%} select * from {{ relation }}
    {%- else -%}
        {%- set nulls = [] -%}
        {%- for name, data_type in columns.items() -%}
            {%- do nulls.append('cast(null as ' ~ data_type ~ ') as ' ~ name) -%}
        {%- endfor -%}
        select {{ nulls | join(', ') }}
        from (select 1 as nothing) as no_table
        where false
    {%- endif -%}
{%- endmacro -%}
