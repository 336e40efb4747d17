"""What a cycle shows, from its readings alone and by the definitions of the dbt models."""
