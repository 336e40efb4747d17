{#-
    The figures of one equipment in one time bucket, the same for hours and days. Expects the columns
    of battery_features. Means are weighted by time; an interval across the bucket's border counts
    half here, half there.
-#}
{%- macro equipment_bucket_measures() -%}
    count(*) as readings,
    count(case when is_flagged then 1 end) as flagged_readings,
    min(recorded_at) as first_reading_at,
    max(recorded_at) as last_reading_at,
    -- time that readings vouch for: gaps and the wait before a test's first reading left out
    coalesce(sum(case when not is_gap then time_delta_s end), 0.0) as observed_s,
    min(voltage_v) as voltage_min_v,
    {{ time_mean('voltage_v') }} as voltage_mean_v,
    max(voltage_v) as voltage_max_v,
    min(current_a) as current_min_a,
    {{ time_mean('current_a') }} as current_mean_a,
    max(current_a) as current_max_a,
    min(power_watt) as power_min_watt,
    {{ time_mean('power_watt') }} as power_mean_watt,
    max(power_watt) as power_max_watt,
    min(temperature_c) as temperature_min_c,
    {{ time_mean('temperature_c') }} as temperature_mean_c,
    max(temperature_c) as temperature_max_c,
    min(frequency_hz) as frequency_min_hz,
    {{ time_mean('frequency_hz') }} as frequency_mean_hz,
    max(frequency_hz) as frequency_max_hz,
    coalesce(sum(dq_charge_ah), 0.0) as charge_ah,
    coalesce(sum(dq_discharge_ah), 0.0) as discharge_ah,
    -- cells: the tester's energy increments; machines: power over the interval before a reading
    coalesce(
        sum(
            coalesce(
                de_charge_wh,
                case when not is_gap then greatest(power_watt, 0.0) * time_delta_s / 3600.0 end
            )
        ),
        0.0
    ) as energy_in_wh,
    coalesce(
        sum(
            coalesce(
                de_discharge_wh,
                case when not is_gap then greatest(-power_watt, 0.0) * time_delta_s / 3600.0 end
            )
        ),
        0.0
    ) as energy_out_wh
{%- endmacro -%}
