{#-
    Swings of charge, as CTEs after `with_increments`. `numbered_swings` holds level_ah and swing_number
    of the cells' readings, `swing_cycles` the cycle of each swing for tests without a cycle counter.

    The level is the net charge since the test began. It turns where it leaves its last high or low by
    more than a share of the cell's capacity: smaller reversals (regeneration, pulses, shallow cycling)
    are part of the swing around them. Without recursion this is done on the lines of a grid of levels:
    crossing back and forth over one line is no movement, reaching another line is.
-#}
{%- macro swings_of_charge() -%}
step_charges as (

    select
        equipment_id,
        test_number,
        step_run,
        max(nominal_capacity_ah) as nominal_capacity_ah,
        greatest(sum(dq_charge_ah), sum(dq_discharge_ah)) as step_ah

    from with_increments
    where is_cell
    group by equipment_id, test_number, step_run

),

-- The least swing is a share of the nominal capacity, or of the largest step where no profile names
-- one or where the cell never moves a tenth of it.
least_swings as (

    select
        equipment_id,
        {{ var('least_swing_fraction') }} * case
            when max(step_ah) >= 0.1 * max(nominal_capacity_ah) then max(nominal_capacity_ah)
            else nullif(max(step_ah), 0.0)
        end as least_swing_ah

    from step_charges
    group by equipment_id

),

-- In rows of nothing but this: they are sorted several times.
net_charges as (

    select
        equipment_id,
        test_number,
        reading_seq,
        has_cycle_index,
        case when is_resting then 0.0 else dq_charge_ah - dq_discharge_ah end as net_ah

    from with_increments
    where is_cell

),

with_level as (

    select
        net_charges.test_number,
        net_charges.reading_seq,
        net_charges.has_cycle_index,
        net_charges.net_ah,
        least_swings.least_swing_ah,
        sum(net_charges.net_ah) over (
            partition by net_charges.test_number
            order by net_charges.reading_seq
            rows between unbounded preceding and current row
        ) as level_ah

    from net_charges
    inner join least_swings on net_charges.equipment_id = least_swings.equipment_id

),

with_band as (

    select
        *,
        cast(floor(level_ah / least_swing_ah + 0.5) as bigint) as band

    from with_level

),

with_previous_band as (

    select
        *,
        lag(band) over (partition by test_number order by reading_seq) as previous_band

    from with_band

),

crossings as (

    select
        test_number,
        reading_seq,
        case when band > previous_band then 1 else -1 end as crossing_direction,
        -- the last line that was crossed: a band's lower line on the way up, its upper one down
        case when band > previous_band then band else band + 1 end as line

    from with_previous_band
    where band <> previous_band

),

with_previous_line as (

    select
        *,
        lag(line) over (partition by test_number order by reading_seq) as previous_line

    from crossings

),

movements as (

    select
        test_number,
        reading_seq,
        case
            when previous_line is null then crossing_direction
            when line > previous_line then 1
            else -1
        end as movement

    from with_previous_line
    where previous_line is null or line <> previous_line

),

with_previous_movement as (

    select
        *,
        lag(movement) over (partition by test_number order by reading_seq) as previous_movement

    from movements

),

turns as (

    select
        test_number,
        reading_seq,
        movement,
        row_number() over (partition by test_number order by reading_seq) as leg

    from with_previous_movement
    where previous_movement is null or movement <> previous_movement

),

-- A leg lies between two turns that were noticed: the highest or lowest level is within it. Before
-- the first turn the level counts as moving the other way.
legs as (

    select
        test_number,
        leg,
        movement as leg_direction
    from turns

    union all

    select
        test_number,
        0 as leg,
        -movement as leg_direction
    from turns
    where leg = 1

),

with_leg as (

    select
        with_previous_band.*,
        coalesce(
            last_value(turns.leg ignore nulls) over (
                partition by with_previous_band.test_number
                order by with_previous_band.reading_seq
                rows between unbounded preceding and current row
            ),
            0
        ) as leg

    from with_previous_band
    left join turns
        on
            with_previous_band.test_number = turns.test_number
            and with_previous_band.reading_seq = turns.reading_seq

),

leg_extremes as (

    select
        with_leg.test_number,
        with_leg.leg,
        max(legs.leg_direction) as leg_direction,
        max(with_leg.least_swing_ah) as least_swing_ah,
        max(legs.leg_direction * with_leg.level_ah) as extreme_ah

    from with_leg
    inner join legs
        on with_leg.test_number = legs.test_number and with_leg.leg = legs.leg
    group by with_leg.test_number, with_leg.leg

),

-- A swing ends with the last reading at its highest or lowest level, so that a rest belongs to the
-- swing before it. What lies before the first turn is a swing only if it moved the other way.
leg_ends as (

    select
        with_leg.test_number,
        with_leg.leg,
        max(
            case
                when
                    leg_extremes.leg_direction * with_leg.level_ah
                    >= leg_extremes.extreme_ah - 1e-6 * leg_extremes.least_swing_ah
                    and (
                        with_leg.leg > 0
                        or leg_extremes.extreme_ah > 1e-6 * leg_extremes.least_swing_ah
                    )
                    then with_leg.reading_seq
                else 0
            end
        ) as end_seq

    from with_leg
    inner join leg_extremes
        on with_leg.test_number = leg_extremes.test_number and with_leg.leg = leg_extremes.leg
    group by with_leg.test_number, with_leg.leg

),

numbered_swings as (

    select
        with_leg.test_number,
        with_leg.reading_seq,
        with_leg.has_cycle_index,
        with_leg.net_ah,
        with_leg.level_ah,
        case
            -- a test whose level never moves by a swing has none
            when leg_ends.end_seq is null then null
            when with_leg.reading_seq > leg_ends.end_seq then with_leg.leg + 1
            else with_leg.leg
        end as swing_number

    from with_leg
    left join leg_ends
        on with_leg.test_number = leg_ends.test_number and with_leg.leg = leg_ends.leg

),

-- Cycles of tests without a cycle counter: each charge begins one. Where a test begins with a full
-- discharge it is the discharges that do; a first discharge of less is that of a cell that came
-- half charged.

swing_totals as (

    select
        test_number,
        swing_number,
        sum(net_ah) as net_ah

    from numbered_swings
    where not has_cycle_index and swing_number is not null
    group by test_number, swing_number

),

led_swings as (

    select
        *,
        row_number() over test as position,
        case
            when
                first_value(net_ah) over test
                <= {{ var('full_swing_fraction') }} * min(net_ah) over whole_test
                and first_value(net_ah) over test < 0.0
                then -1.0
            else 1.0
        end as lead_direction

    from swing_totals
    window
        test as (partition by test_number order by swing_number),
        whole_test as (partition by test_number)

),

swing_cycles as (

    select
        test_number,
        swing_number,
        1 + sum(case when net_ah * lead_direction > 0.0 and position > 1 then 1 else 0 end) over (
            partition by test_number
            order by swing_number
            rows between unbounded preceding and current row
        ) as derived_cycle_index

    from led_swings

)
{%- endmacro -%}
