"""Makes exports of many cyclers whose truth is known, and counts how the job judges them."""
