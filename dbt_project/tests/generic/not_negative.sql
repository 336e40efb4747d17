{#-
    None of the columns is ever below zero: one pass over the table. Nulls pass. One value that is
    below is its cell's problem: a warning, which keeps no model from being built.
-#}
{% test not_negative(model, columns) %}
    {{ config(severity='warn') }}

    select *
    from {{ model }}
    where
        {% for column in columns -%}
            {{ 'or ' if not loop.first }}{{ column }} < 0
        {% endfor %}

{% endtest %}
