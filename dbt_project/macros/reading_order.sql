{#-
    The order of the readings of one equipment and test, the same as in the streaming job. Rows that
    neither clock nor record number tell apart keep the order of their file. Nulls stand last on
    every warehouse: the defaults differ.
-#}
{%- macro reading_order() -%}
    recorded_at asc nulls last, test_time_s asc nulls last,
    record_index asc nulls last, source_row asc nulls last, reading_id asc nulls last
{%- endmacro -%}
