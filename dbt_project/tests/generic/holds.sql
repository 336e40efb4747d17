{#- The condition is not false for any row; where it is unknown (null) the row passes. -#}
{% test holds(model, condition) %}

    select *
    from {{ model }}
    where not ({{ condition }})

{% endtest %}
