{#- None of the columns is ever below zero: one pass over the table. Nulls pass. -#}
{% test not_negative(model, columns) %}

    select {{ columns | join(', ') }}
    from {{ model }}
    where
        {% for column in columns -%}
            {{ 'or ' if not loop.first }}{{ column }} < 0
        {% endfor %}

{% endtest %}
