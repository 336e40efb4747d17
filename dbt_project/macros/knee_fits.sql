{#-
    Least squares of a line (with or without one more term, `extra`) plus hinges max(x - at, 0), as
    int_capacity_points prepares it. Everything is taken orthogonal to the line first
    (Frisch-Waugh), so that a fit with one or two hinges needs no more than these products.
-#}

{#-
    The columns of a hinge at `at`, from the sums over all points to the right of it: its products
    with the constant, the line and the extra term (h0, h1, h2), with the capacity (cy), and its
    own square (cc), the last two orthogonal to the first three.
-#}
{%- macro hinge_products(at) %}
    (sum_x - {{ at }} * sum_1) / sqrt(total_1) as h0,
    (sum_xx - {{ at }} * sum_x) / norm_x as h1,
    sum_qx - {{ at }} * sum_q as h2,
    sum_rx - {{ at }} * sum_r as cy,
    sum_xx - 2.0 * {{ at }} * sum_x + {{ at }} * {{ at }} * sum_1
    - power((sum_x - {{ at }} * sum_1) / sqrt(total_1), 2)
    - power((sum_xx - {{ at }} * sum_x) / norm_x, 2)
    - power(sum_qx - {{ at }} * sum_q, 2) as cc
{%- endmacro -%}

{#- The product of two hinges, `one` at or left of `two`, orthogonal to line and extra term. -#}
{%- macro hinges_product(one, two) -%}
    {{ two }}.sum_xx - ({{ one }}.at_x + {{ two }}.at_x) * {{ two }}.sum_x
    + {{ one }}.at_x * {{ two }}.at_x * {{ two }}.sum_1
    - {{ one }}.h0 * {{ two }}.h0 - {{ one }}.h1 * {{ two }}.h1 - {{ one }}.h2 * {{ two }}.h2
{%- endmacro -%}

{#- The squared error of a fit with two hinges, from their products (cy1, cc1, cy2, cc2, c12). -#}
{%- macro pair_error() -%}
    line_error
    - (cy1 * cy1 * cc2 - 2.0 * cy1 * cy2 * c12 + cy2 * cy2 * cc1) / (cc1 * cc2 - c12 * c12)
{%- endmacro -%}

{#- Whether two hinges are told apart, and the fade speeds up at both. -#}
{%- macro pair_speeds_up() -%}
    cc1 * cc2 - c12 * c12 > 1e-9 * cc1 * cc2
    and cy1 * cc2 < cy2 * c12
    and cy2 * cc1 < cy1 * c12
{%- endmacro -%}

{#-
    What may be taken along with the line: nothing, or a term that bends a curve without a knee: the
    root of the cycles (growth of a surface layer), or a start that dies out, of whatever length.
    In those that are searched, breaks are looked for from the share `first_break` of the record on.
    The others, and a parabola, are only what a knee must fit better than. Numbers, because DuckDB
    2.0 fails on texts that pass through many joins (dictionaries that survive a hash join).
    0 is the straight line, 1 the root, 2 the parabola.
-#}
{%- macro knee_bases() -%}
    {%- set bases = [] -%}
    {%- do bases.append(
        {'number': 0, 'term': '0.0', 'slope': '0.0', 'searched': 'true', 'first_break': '0.0'}
    ) -%}
    {%- do bases.append({
        'number': 1,
        'term': 'sqrt(U + start_u)',
        'slope': '(0.5 / sqrt(U + start_u))',
        'searched': 'true',
        'first_break': '0.0',
    }) -%}
    {%- do bases.append({
        'number': 2,
        'term': '(U * U)',
        'slope': '(2.0 * U)',
        'searched': 'false',
        'first_break': '0.0',
    }) -%}
    {%- for tau in var('knee_start_shares') + var('knee_searched_start_shares') -%}
        {%- do bases.append({
            'number': 2 + loop.index,
            'term': 'exp(-U / ' ~ tau ~ ')',
            'slope': '(-exp(-U / ' ~ tau ~ ') / ' ~ tau ~ ')',
            'searched': 'true' if tau in var('knee_searched_start_shares') else 'false',
            'first_break': '2.0 * ' ~ tau,
        }) -%}
    {%- endfor -%}
    {{ return(bases) }}
{%- endmacro -%}

{#- The numbers of the bases, as an array. -#}
{%- macro knee_base_numbers() -%}
    {{ return('[' ~ (knee_bases() | map(attribute='number') | join(', ')) ~ ']') }}
{%- endmacro -%}

{#- The term of a row's `base` at `u`, or another part of what knee_bases says. -#}
{%- macro knee_term(u, part='term') -%}
    {%- set cases = [] -%}
    {%- for base in knee_bases() -%}
        {%- do cases.append('when ' ~ base.number ~ ' then ' ~ base[part] | replace('U', u)) -%}
    {%- endfor -%}
    {{ return('case base ' ~ (cases | join(' ')) ~ ' end') }}
{%- endmacro -%}
