{#-
    The stream and the models compute time_delta_s independently; they must agree to the microsecond.

    What may differ, because the stream could not know better:
    - a late reading, and the reading right after one;
    - a reading whose predecessor arrived after it;
    - a reading whose predecessor came with another load (one run of the job, told apart by file and
      by pauses in arrival): there the delta to the predecessor within its own load counts as well;
    - the first reading after each start of the job, which has no delta in the stream. These are
      counted per equipment and test: one per load, and never more than the limits below, so that a
      stream that loses its state does not pass.

    A warning: what the stream made of one equipment keeps no model of another from being built.
-#}
{{ config(severity='warn') }}
with

-- Tests all of whose time deltas are there and equal need no closer look, which is a dear one.
suspects as (

    select distinct cleaned.test_key

    from {{ ref('battery_cleaned') }} as cleaned
    inner join {{ ref('battery_features') }} as features
        on cleaned.reading_id = features.reading_id
    where
        {{ is_unchecked('battery_features', 'cleaned.') }}
        and {{ is_unchecked('battery_features', 'features.') }}
        and (
            (cleaned.stream_time_delta_s is null) <> (features.time_delta_s is null)
            or abs(cleaned.stream_time_delta_s - features.time_delta_s) > 1e-6
        )

),

stream as (

    select
        reading_id,
        test_key,
        source_file,
        record_index,
        recorded_at,
        ingested_at,
        test_time_s,
        is_late,
        stream_time_delta_s

    from {{ ref('battery_cleaned') }}
    where test_key in (select suspects.test_key from suspects)

),

with_arrival as (

    select
        *,
        case
            when
                {{ seconds_between('lag(ingested_at) over arrival', 'ingested_at') }}
                <= {{ var('load_pause_s') }}
                then 0
            else 1
        end as is_load_start

    from stream
    window arrival as (partition by test_key, source_file order by ingested_at, reading_id)

),

with_load as (

    select
        *,
        sum(is_load_start) over (
            partition by test_key, source_file
            order by ingested_at, reading_id
            rows between unbounded preceding and current row
        ) as load_number

    from with_arrival

),

compared as (

    select
        with_load.test_key,
        with_load.source_file,
        with_load.reading_id,
        with_load.is_late,
        with_load.ingested_at,
        with_load.stream_time_delta_s,
        features.time_delta_s,
        lag(with_load.is_late) over in_test as previous_is_late,
        lag(with_load.ingested_at) over in_test as previous_ingested_at,
        case
            when with_load.test_time_s >= lag(with_load.test_time_s) over in_load
                then with_load.test_time_s - lag(with_load.test_time_s) over in_load
            else
                {{ seconds_between(
                    'lag(with_load.recorded_at) over in_load', 'with_load.recorded_at'
                ) }}
        end as load_time_delta_s

    from with_load
    inner join {{ ref('battery_features') }} as features
        on with_load.reading_id = features.reading_id
    window
        in_test as (partition by with_load.test_key order by features.reading_seq),
        in_load as (
            partition by
                with_load.test_key,
                with_load.source_file,
                with_load.load_number,
                with_load.is_late
            order by features.reading_seq
        )

),

mismatches as (

    select
        test_key,
        min(reading_id) as example_reading_id,
        'stream and model differ' as problem,
        count(*) as readings

    from compared
    where
        stream_time_delta_s is not null
        and (time_delta_s is null or abs(stream_time_delta_s - time_delta_s) > 1e-6)
        and not is_late
        and not coalesce(previous_is_late, false)
        and not coalesce(previous_ingested_at > ingested_at, false)
        and not coalesce(abs(stream_time_delta_s - load_time_delta_s) <= 1e-6, false)
    group by test_key

),

missing as (

    select
        test_key,
        min(
            case when stream_time_delta_s is null and time_delta_s is not null then reading_id end
        ) as example_reading_id,
        'missing in the stream' as problem,
        count(case when stream_time_delta_s is null and time_delta_s is not null then 1 end)
            as readings

    from compared
    where not is_late
    group by test_key
    having
        count(case when stream_time_delta_s is null and time_delta_s is not null then 1 end)
        > least(
            -- one per load
            count(
                distinct coalesce(source_file, '')
                || '|' || cast({{ epoch_micros('ingested_at') }} as string)
            ),
            greatest(
                {{ var('stream_null_deltas_per_test') }},
                {{ var('stream_null_delta_share') }} * count(*)
            )
        )

),

final as (

    select * from mismatches
    union all
    select * from missing

)

select * from final
