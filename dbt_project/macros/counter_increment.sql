{#-
    What a counter gained up to a reading. `top` is the highest value since the counter restarted
    and before this reading, `run` how often it has restarted in the test. The first value of a test
    contributes nothing: what it counted happened before. The first value after a restart is the
    increment. A counter that dips, if only by a rounding error, gains nothing until it has passed
    its highest value again.
-#}
{%- macro counter_increment(value, top, run) -%}
    case
        when {{ value }} is null then 0.0
        when {{ top }} is not null then greatest({{ value }} - {{ top }}, 0.0)
        when {{ run }} = 0 then 0.0
        else {{ value }}
    end
{%- endmacro -%}
