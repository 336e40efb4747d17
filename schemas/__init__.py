"""The reading and the job's other tables, defined once, and every form derived from them."""
