{#-
    The column is never null and no value of it stands in two rows: what dbt's not_null and unique say,
    in one look. Duplicates by hashes first: the texts of all rows take many times the memory of a hash
    table of numbers.
-#}
{% test is_key(model, column_name) %}

    select
        {{ column_name }} as key_field,
        count(*) as n_records
    from {{ model }}
    where
        {{ column_name }} is null
        or {{ short_hash('cast(' ~ column_name ~ ' as string)') }} in (
            select {{ short_hash('cast(' ~ column_name ~ ' as string)') }} as value_hash
            from {{ model }}
            where {{ column_name }} is not null
            group by value_hash
            having count(*) > 1
        )
    group by {{ column_name }}
    having {{ column_name }} is null or count(*) > 1

{% endtest %}
