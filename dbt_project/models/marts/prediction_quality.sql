{%- set measures = {
    'predictions': 'count(*)',
    'cells': 'count(distinct equipment_id)',
    'out_of_domain_share': 'avg(case when out_of_domain then 1.0 else 0.0 end)',
    'soh_scored': 'count(soh_error)',
    'soh_bias': 'avg(soh_error)',
    'soh_mae': 'avg(abs(soh_error))',
    'soh_mape': 'avg(abs(soh_error) / nullif(true_soh, 0.0))',
    'soh_rmse': 'sqrt(avg(soh_error * soh_error))',
    'soh_coverage': 'avg(case when is_soh_covered then 1.0 when not is_soh_covered then 0.0 end)',
    'soh_mean_width': 'avg(case when soh_error is not null then soh_high - soh_low end)',
    'remaining_scored': 'count(remaining_error_cycles)',
    'remaining_bias': 'avg(remaining_error_cycles)',
    'remaining_mae': 'avg(abs(remaining_error_cycles))',
    'remaining_mape': 'avg(remaining_error_share)',
    'remaining_rmse': 'sqrt(avg(remaining_error_cycles * remaining_error_cycles))',
    'life_mape': 'avg(life_error_share)',
    'remaining_coverage': 'avg(
            case when is_remaining_covered then 1.0 when not is_remaining_covered then 0.0 end
        )',
    'remaining_mean_width': 'avg(
            case
                when true_remaining_cycles is not null
                    then remaining_cycles_high - remaining_cycles_low
            end
        )',
    'remaining_open_share': 'avg(
            case
                when is_remaining_covered is null then null
                when remaining_cycles_high is null then 1.0
                else 0.0
            end
        )',
    'refuted': 'count(case when is_refuted then 1 end)',
} -%}
{#- Those that recent and earlier predictions are compared by; a count of none is 0. -#}
{%- set counted = ['predictions', 'soh_scored', 'remaining_scored'] -%}
{%- set drifting = [
    'out_of_domain_share', 'soh_bias', 'soh_mae', 'soh_coverage', 'remaining_bias',
    'remaining_mae', 'remaining_mape', 'remaining_coverage'
] -%}
with

scores as (

    select * from {{ ref('prediction_scores') }}

),

with_newest as (

    select
        *,
        max(cycle_ended_at) over (partition by model) as newest_at

    from scores

),

with_recent as (

    select
        *,
        {{ seconds_between('cycle_ended_at', 'newest_at') }}
        <= {{ var('prediction_recent_days') }} * 86400.0 as is_recent

    from with_newest

),

horizons as (

    {% for kind, horizon in [
        ('all', "'all'"), ('life_spent', 'life_spent_bin'), ('remaining', 'remaining_bin')
    ] -%}
        select
            *,
            '{{ kind }}' as horizon_kind,
            {{ horizon }} as horizon

        from with_recent
        {% if not loop.first -%} where {{ horizon }} is not null {%- endif %}
        {% if not loop.last %}
            union all
        {% endif %}
    {% endfor %}

),

whole_measures as (

    select
        model,
        model_version,
        horizon_kind,
        horizon,
        {% for measure in measures -%}
            {{ measures[measure] }} as {{ measure }},
        {% endfor -%}
        min(cycle_ended_at) as first_cycle_at,
        max(cycle_ended_at) as last_cycle_at

    from horizons
    group by model, model_version, horizon_kind, horizon

),

{% for name, condition in [('recent', 'is_recent'), ('earlier', 'not is_recent')] -%}
    {{ name }}_measures as (

        select
            {% for measure in counted + drifting -%}
                {{ measures[measure] }} as {{ measure }},
            {% endfor -%}
            model,
            model_version,
            horizon_kind,
            horizon

        from horizons
        where {{ condition }}
        group by model, model_version, horizon_kind, horizon

    ),

{% endfor -%}
final as (

    select
        whole_measures.model
        || '|' || whole_measures.model_version
        || '|' || whole_measures.horizon_kind
        || '|' || whole_measures.horizon as quality_key,
        whole_measures.model,
        whole_measures.model_version,
        whole_measures.horizon_kind,
        whole_measures.horizon,
        {% for name in ['recent', 'earlier'] -%}
            {% for measure in counted -%}
                coalesce({{ name }}_measures.{{ measure }}, 0) as {{ name }}_{{ measure }},
            {% endfor -%}
            {% for measure in drifting -%}
                {{ name }}_measures.{{ measure }} as {{ name }}_{{ measure }},
            {% endfor -%}
        {% endfor -%}
        {% for measure in measures -%}
            whole_measures.{{ measure }},
        {% endfor -%}
        whole_measures.first_cycle_at,
        whole_measures.last_cycle_at

    from whole_measures
    {% for name in ['recent', 'earlier'] -%}
        left join {{ name }}_measures
            on
                whole_measures.model = {{ name }}_measures.model
                and whole_measures.model_version = {{ name }}_measures.model_version
                and whole_measures.horizon_kind = {{ name }}_measures.horizon_kind
                and whole_measures.horizon = {{ name }}_measures.horizon
    {% endfor %}
)

select * from final
