{#-
    Values lie between min_value and max_value, both included and either optional. Nulls pass. One
    value that does not is its cell's problem: a warning, which keeps no model from being built.
-#}
{% test in_range(model, column_name, min_value=none, max_value=none) %}
    {{ config(severity='warn') }}

    select *
    from {{ model }}
    where
        {{ column_name }} < {{ column_name if min_value is none else min_value }}
        or {{ column_name }} > {{ column_name if max_value is none else max_value }}

{% endtest %}
