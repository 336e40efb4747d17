{#- None of the columns is ever null: one pass over the table instead of one per column. -#}
{% test never_null(model, columns) %}

    select {{ columns | join(', ') }}
    from {{ model }}
    where
        {% for column in columns -%}
            {{ 'or ' if not loop.first }}{{ column }} is null
        {% endfor %}

{% endtest %}
