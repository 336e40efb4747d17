{#- One statement of a model's build. -#}
{%- macro stated(name, code) -%}
    {%- call statement(name) -%} {{ code }} {%- endcall -%}
{%- endmacro -%}

{%- materialization by_part, adapter='duckdb' -%}
    {{ return(built_by_part()) }}
{%- endmaterialization -%}
