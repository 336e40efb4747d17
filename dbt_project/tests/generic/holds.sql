{#-
    The condition is not false for any row; where it is unknown (null) the row passes. One row that
    breaks it is its cell's problem: a warning, which keeps no model from being built.
-#}
{% test holds(model, condition) %}{{ config(severity='warn') }}

    select *
    from {{ model }}
    where not ({{ condition }})

{% endtest %}
