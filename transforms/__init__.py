"""Pure, vectorised steps from raw batches to enriched readings: no I/O, no clients, no clock."""
