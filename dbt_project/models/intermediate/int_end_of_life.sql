with

series as (

    select * from {{ ref('int_capacity_series') }}
    where is_reference and is_decisive

),

equipment as (

    select * from {{ ref('dim_equipment') }}

),

with_nominal as (

    select
        series.*,
        coalesce(equipment.nominal_capacity_ah, series.initial_capacity_ah) as nominal_capacity_ah

    from series
    left join equipment on series.equipment_id = equipment.equipment_id

),

thresholds as (

    {% for name, share, capacity in [
        ('80_nominal', 0.8, 'nominal_capacity_ah'),
        ('70_nominal', 0.7, 'nominal_capacity_ah'),
        ('80_initial', 0.8, 'initial_capacity_ah')
    ] -%}
        select
            '{{ name }}' as threshold,
            equipment_id,
            cycle_number,
            started_at,
            throughput_ah,
            nominal_capacity_ah,
            case when capacity_median_ah < {{ share }} * {{ capacity }} then 1 else 0 end
                as is_below

        from with_nominal
        {% if not loop.last %}
            union all
        {% endif %}
    {% endfor %}

),

with_change as (

    select
        *,
        case when is_below <> lag(is_below) over life then 1 else 0 end as is_change,
        lead(throughput_ah) over life as next_throughput_ah

    from thresholds
    window life as (partition by threshold, equipment_id order by cycle_number)

),

with_stretch as (

    select
        *,
        sum(is_change) over (
            partition by threshold, equipment_id
            order by cycle_number
            rows between unbounded preceding and current row
        ) as stretch

    from with_change

),

-- Stretches above the threshold that last are a recovery: what lay below before them is lifted.
recoveries as (

    select
        threshold,
        equipment_id,
        max(cycle_number) as last_cycle

    from with_stretch
    where is_below = 0
    group by threshold, equipment_id, stretch
    having
        max(coalesce(next_throughput_ah, throughput_ah)) - min(throughput_ah)
        >= {{ var('end_of_life_lift_cycles') }} * 2.0 * max(nominal_capacity_ah)

),

last_recoveries as (

    select
        threshold,
        equipment_id,
        max(last_cycle) as last_cycle

    from recoveries
    group by threshold, equipment_id

),

since_recovery as (

    select with_stretch.*

    from with_stretch
    left join last_recoveries
        on
            with_stretch.threshold = last_recoveries.threshold
            and with_stretch.equipment_id = last_recoveries.equipment_id
    where with_stretch.cycle_number > coalesce(last_recoveries.last_cycle, 0)

),

with_first as (

    select
        *,
        min(case when is_below = 1 then cycle_number end) over (
            partition by threshold, equipment_id
        ) as first_below

    from since_recovery

),

evidence as (

    select
        threshold,
        equipment_id,
        min(cycle_number) as end_of_life_cycle,
        min(started_at) as end_of_life_at,
        min(throughput_ah) as end_of_life_throughput_ah,
        sum(is_below) as below_cycles,
        count(*) - sum(is_below) as above_cycles,
        (max(throughput_ah) - min(throughput_ah)) / (2.0 * max(nominal_capacity_ah))
            as held_equivalent_full_cycles

    from with_first
    where cycle_number >= first_below
    group by threshold, equipment_id

),

-- It has to stay below: more than once, and more often than not.
final as (

    select
        threshold,
        equipment_id,
        end_of_life_cycle,
        end_of_life_at,
        end_of_life_throughput_ah,
        held_equivalent_full_cycles,
        below_cycles as held_reference_cycles

    from evidence
    where
        below_cycles >= {{ var('end_of_life_least_cycles') }}
        and below_cycles > above_cycles

)

select * from final
