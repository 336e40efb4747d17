{#- Whether wall clock and test clock, s, differ by more than a share and more than minutes. -#}
{%- macro clocks_differ(wall_s, clock_s) -%}
    coalesce(
        abs({{ wall_s }} - {{ clock_s }}) > {{ var('clock_noise_s') }}
        and abs({{ wall_s }} - {{ clock_s }}) > {{ var('clock_tolerance') }} * {{ wall_s }},
        false
    )
{%- endmacro -%}
