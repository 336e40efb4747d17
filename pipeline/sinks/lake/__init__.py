"""The lake: the raw archive and the job's tables, as files in a store."""
