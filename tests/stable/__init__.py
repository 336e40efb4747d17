"""Whether a running job can be updated in place: its graph and state against every release's record."""
