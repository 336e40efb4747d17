{#-
    Whether two estimates of a charge, Ah, differ by more than a share of the larger one and by more
    than `noise_ah`. False where either is not known.
-#}
{%- macro estimates_differ(one, other, tolerance, noise_ah) -%}
    coalesce(
        abs({{ one }} - {{ other }}) > {{ tolerance }} * greatest({{ one }}, {{ other }})
        and abs({{ one }} - {{ other }}) > {{ noise_ah }},
        false
    )
{%- endmacro -%}
