{#-
    No value of the column stands in two rows; nulls pass. dbt's own, but by hashes first: the texts of
    all rows take many times the memory of a hash table of numbers.
-#}
{% test unique(model, column_name) %}

    select
        {{ column_name }} as unique_field,
        count(*) as n_records
    from {{ model }}
    where
        {{ column_name }} is not null
        and {{ short_hash('cast(' ~ column_name ~ ' as string)') }} in (
            select {{ short_hash('cast(' ~ column_name ~ ' as string)') }} as value_hash
            from {{ model }}
            where {{ column_name }} is not null
            group by value_hash
            having count(*) > 1
        )
    group by {{ column_name }}
    having count(*) > 1

{% endtest %}
