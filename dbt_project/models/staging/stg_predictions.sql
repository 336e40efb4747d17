with

source as (

    select *
    from ({{ all_or_none_of(source('pipeline', 'predictions'), {
        'prediction_id': 'string', 'equipment_id': 'string', 'cycle_id': 'string',
        'cycle_number': 'bigint', 'cycle_ended_at': timestamp_type(), 'made_at': timestamp_type(),
        'model': 'string', 'model_version': 'string', 'soh': float_type(), 'soh_low': float_type(),
        'soh_high': float_type(), 'soh_method': 'string', 'remaining_cycles': float_type(),
        'remaining_cycles_low': float_type(), 'remaining_cycles_high': float_type(),
        'threshold_soh': float_type(), 'end_of_life_at': timestamp_type(),
        'end_of_life_low_at': timestamp_type(), 'end_of_life_high_at': timestamp_type(),
        'knee_risk': float_type(), 'out_of_domain': 'boolean', 'reasons': strings_type(),
    }) }}) as every_row
    {{ in_every_partition('cycle_ended_at') }}

),

renamed as (

    select
        prediction_id,
        equipment_id,
        cycle_id,
        cycle_number,
        cycle_ended_at,
        made_at,
        model,
        model_version,
        {{ finite('soh') }} as soh,
        {{ finite('soh_low') }} as soh_low,
        {{ finite('soh_high') }} as soh_high,
        soh_method,
        {{ finite('remaining_cycles') }} as remaining_cycles,
        {{ finite('remaining_cycles_low') }} as remaining_cycles_low,
        {{ finite('remaining_cycles_high') }} as remaining_cycles_high,
        {{ finite('threshold_soh') }} as threshold_soh,
        end_of_life_at,
        end_of_life_low_at,
        end_of_life_high_at,
        {{ finite('knee_risk') }} as knee_risk,
        out_of_domain,
        {{ string_array('reasons') }} as reasons

    from source

),

-- At-least-once delivery: a prediction may be there twice on BigQuery. What was said first counts.
deduplicated as (

    select *
    from renamed
    where prediction_id is not null
    qualify row_number() over (
        partition by prediction_id
        order by made_at asc nulls last, cycle_ended_at asc nulls last
    ) = 1

)

select * from deduplicated
