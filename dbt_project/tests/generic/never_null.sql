{#-
    None of the columns is ever null: one pass over the table instead of one per column. One row that
    lacks a value is its cell's problem: a warning, which keeps no model from being built.
-#}
{% test never_null(model, columns) %}
    {{ config(severity='warn') }}

    select {{ columns | join(', ') }}
    from {{ model }}
    where
        {% for column in columns -%}
            {{ 'or ' if not loop.first }}{{ column }} is null
        {% endfor %}

{% endtest %}
