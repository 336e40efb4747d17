{#- How near to a time a reading must be to stand for it alone, s. -#}
{%- macro near(seconds) -%}
    greatest({{ var('resistance_near_share') }} * {{ seconds }}, {{ var('resistance_near_s') }})
{%- endmacro -%}

{#-
    Slope of the line of least squares through the points of a group that meet a condition; null
    with fewer than two. `x` and `y` should be small numbers about their middle.
-#}
{%- macro slope(x, y, condition) -%}
    {%- set n = 'count(case when ' ~ condition ~ ' then 1 end)' -%}
    {%- set sx = 'sum(case when ' ~ condition ~ ' then ' ~ x ~ ' end)' -%}
    case
        when {{ n }} >= 2
            then
                (
                    {{ n }} * sum(case when {{ condition }} then ({{ x }}) * ({{ y }}) end)
                    - {{ sx }} * sum(case when {{ condition }} then {{ y }} end)
                )
                / nullif(
                    {{ n }} * sum(case when {{ condition }} then ({{ x }}) * ({{ x }}) end)
                    - {{ sx }} * {{ sx }},
                    0.0
                )
    end
{%- endmacro -%}
