{#-
    Integral over the interval that ends at a reading, in `value` hours, of the positive part of
    `value`: trapezoid inside a step. On a step's first row the value jumped: the part of the interval
    that belongs to the step (by the step's own clock; all of it where there is none, nothing where
    the tester logs as steps start) counts with the new value, the part before it with the old one.
    Where the voltage is held the current decays from reading to reading (`is_decay`), also from the
    constant current before: there it is the logarithmic mean, exact for an exponential, that counts.
    A test's first row counts from the test's start, where that is one interval ago. Gaps are left
    out.
-#}
{%- macro integrated_increment(value, previous) -%}
    case
        when time_delta_s is null then greatest({{ value }}, 0.0) * coalesce(lead_s, 0.0) / 3600.0
        when is_gap then 0.0
        when is_step_start
            then (
                case
                    when is_decay then {{ interval_mean(value, previous) }}
                    else greatest({{ value }}, 0.0)
                end * {{ own_interval() }}
                + greatest(coalesce({{ previous }}, 0.0), 0.0)
                * (time_delta_s - {{ own_interval() }})
            ) / 3600.0
        else {{ interval_mean(value, previous) }} * time_delta_s / 3600.0
    end
{%- endmacro -%}

{#- The mean of the positive part of `value` between two readings. -#}
{%- macro interval_mean(value, previous) -%}
    case
        -- below 2 % the two means agree to 4e-5
        when is_decay and {{ value }} > 0.0 and {{ previous }} > 1.02 * {{ value }}
            then
                ({{ previous }} - {{ value }})
                / nullif(ln(greatest({{ previous }}, 1e-9) / greatest({{ value }}, 1e-9)), 0.0)
        else (greatest({{ value }}, 0.0) + greatest({{ previous }}, 0.0)) / 2.0
    end
{%- endmacro -%}

{#- The part of the interval up to a step's first row that belongs to the step, s. -#}
{%- macro own_interval() -%}
    least(
        time_delta_s,
        coalesce(step_time_s, case when logs_step_starts then 0.0 else time_delta_s end)
    )
{%- endmacro -%}

{#-
    How far that integral may be off, as `value` hours: inside a step, and over the step's part of
    the interval up to its first row where the current decays, by what lies between the two
    rectangles and the trapezoid; else on a step's first row by all of the jump over the time for
    which the interval does not belong to the step, as the step's own clock has it.
-#}
{%- macro integration_bound(value, previous) -%}
    case
        when time_delta_s is null or is_gap or {{ previous }} is null then 0.0
        when is_step_start
            then
                abs(greatest({{ value }}, 0.0) - greatest({{ previous }}, 0.0))
                * (
                    greatest(time_delta_s - coalesce(step_time_s, 0.0), 0.0)
                    + case when is_decay then {{ own_interval() }} / 2.0 else 0.0 end
                ) / 3600.0
        else
            abs(greatest({{ value }}, 0.0) - greatest({{ previous }}, 0.0))
            / 2.0 * time_delta_s / 3600.0
    end
{%- endmacro -%}
