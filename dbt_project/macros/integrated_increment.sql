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
