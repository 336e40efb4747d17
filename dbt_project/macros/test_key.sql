{#-
    Key of a test: test_id alone need not be unique across equipment, and may be missing. A bar in
    the equipment's id is written %7C, so that no two pairs of ids give one key.
-#}
{%- macro test_key(equipment_id='equipment_id', test_id='test_id') -%}
    replace({{ equipment_id }}, '|', '%7C') || '|' || coalesce({{ test_id }}, '')
{%- endmacro -%}
