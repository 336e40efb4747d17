{#-
    What a counter gained up to a reading. `top` is the highest value since the counter restarted
    and before this reading, `run` how often it has restarted in the test. The first value of a test
    contributes nothing, for what it counted happened before; unless it is about what the current
    gives since the test's start, `lead_flow` (or less, where that is `near`). The first value after a restart is the
    increment. A counter that dips, if only by a rounding error, gains nothing until it has passed
    its highest value again.
-#}
{%- macro counter_increment(value, top, run, lead_flow, near) -%}
    case
        when {{ value }} is null then 0.0
        when {{ top }} is not null then greatest({{ value }} - {{ top }}, 0.0)
        when {{ run }} = 0
            then
                case
                    when
                        {{ value }} <= {{ var('counter_flow_factor') }} * {{ lead_flow }} + 1e-6
                        and (
                            {{ near }}
                            or {{ value }} >= {{ lead_flow }} / {{ var('counter_flow_factor') }}
                        )
                        then {{ value }}
                    else 0.0
                end
        else {{ value }}
    end
{%- endmacro -%}
