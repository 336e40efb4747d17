{#- No two rows agree in all the columns; a null is a value of its own here. -#}
{% test unique_together(model, columns) %}

    select
        {{ columns | join(', ') }},
        count(*) as occurrences
    from {{ model }}
    group by {{ columns | join(', ') }}
    having count(*) > 1

{% endtest %}
