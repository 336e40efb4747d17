{#-
    What a counter gained since its previous known value. The first value of a test contributes
    nothing: what it counted happened before. After a drop the counter restarted (per file, cycle or
    step), so its new value is the increment. A drop of less than a millionth is rounding, not a
    restart.
-#}
{%- macro counter_increment(value, previous) -%}
    case
        when {{ value }} is null or {{ previous }} is null then 0.0
        when {{ value }} >= {{ previous }} then {{ value }} - {{ previous }}
        when {{ value }} >= {{ previous }} - 1e-6 then 0.0
        else {{ value }}
    end
{%- endmacro -%}
