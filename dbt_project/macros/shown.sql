{#- A number as text with up to so many decimals, the same on every warehouse. -#}
{%- macro shown(value, decimals) -%}
    cast(round({{ value }}, {{ decimals }}) as string)
{%- endmacro -%}
