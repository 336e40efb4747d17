{#-
    The mean of a value over a group of readings, each with the weight of the time that it stands for
    (`weight_s` of battery_features): sum(x * w) / sum(w), the trapezoid rule divided by the time.
    Every reading weighs the same only where none stands for any time, as a single reading.
-#}
{%- macro time_mean(value, weight='weight_s') -%}
    coalesce(
        sum({{ value }} * {{ weight }})
        / nullif(sum(case when {{ value }} is not null then {{ weight }} end), 0.0),
        avg({{ value }})
    )
{%- endmacro -%}

{#-
    That time: half of the interval before a reading and half of the one after it. Intervals for
    which `skipped` holds belong to neither end. To be used where a test's readings stand in `in_test`,
    a window by test_key in the order of reading_seq.
-#}
{%- macro half_intervals(skipped) -%}
    (
        coalesce(case when not ({{ skipped }}) then time_delta_s end, 0.0)
        + coalesce(lead(case when not ({{ skipped }}) then time_delta_s end) over in_test, 0.0)
    ) / 2.0
{%- endmacro -%}
