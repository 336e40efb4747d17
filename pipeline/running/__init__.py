"""What goes on around a running job: what it tells, what it remembers, how it is ended."""
