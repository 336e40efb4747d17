{#-
    Whether a counter restarted (per file, cycle or step) at a reading where it fell: its value is at
    most half of the previous known one, or no more than may have flowed since then, `flow`. Else it
    dips. It also dips where the next known value is where the counter would have been without the
    fall, and further up than what may have flowed since, `next_flow`: a zero for a missing value.

    The comparison is with the value before the fall, not with the highest one: a counter that falls
    by little every reading (a net capacity while the cell is discharged) has not restarted once it
    is half way down.
-#}
{%- macro counter_restarted(value, previous, flow, next_value, next_flow) -%}
    {%- set factor = var('counter_flow_factor') -%}
    coalesce(
        {{ value }} < {{ previous }} - 1e-6
        and (
            {{ value }} <= {{ var('counter_restart_share') }} * {{ previous }}
            or {{ value }} <= {{ factor }} * {{ flow }} + 1e-6
        )
        and not coalesce(
            {{ next_value }} - {{ value }} > {{ factor }} * {{ next_flow }} + 1e-6
            and {{ next_value }} >= {{ previous }} - 1e-6
            and {{ next_value }}
            <= {{ previous }} + {{ factor }} * ({{ flow }} + {{ next_flow }}) + 1e-6,
            false
        ),
        false
    )
{%- endmacro -%}
