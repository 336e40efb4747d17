{#-
    Integral over the interval that ends at a reading, in `value` hours, of the positive part of
    `value`: trapezoid inside a step, rectangle on a step's first row (the value jumped at the
    step's start, so the previous row says nothing about this interval). Gaps are left out.
-#}
{%- macro integrated_increment(value, previous) -%}
    case
        when time_delta_s is null or is_gap then 0.0
        when is_step_start
            then greatest({{ value }}, 0.0) * time_delta_s / 3600.0
        else
            (greatest({{ value }}, 0.0) + greatest({{ previous }}, 0.0))
            / 2.0 * time_delta_s / 3600.0
    end
{%- endmacro -%}

{#-
    How far that integral may be off, as `value` hours: inside a step by what lies
    between the two rectangles and the trapezoid; on a step's first row by all of the jump over the
    time for which the interval does not belong to the step, as the step's own clock has it.
-#}
{%- macro integration_bound(value, previous) -%}
    case
        when time_delta_s is null or is_gap or {{ previous }} is null then 0.0
        when is_step_start
            then
                abs(greatest({{ value }}, 0.0) - greatest({{ previous }}, 0.0))
                * greatest(time_delta_s - coalesce(step_time_s, 0.0), 0.0) / 3600.0
        else
            abs(greatest({{ value }}, 0.0) - greatest({{ previous }}, 0.0))
            / 2.0 * time_delta_s / 3600.0
    end
{%- endmacro -%}
