"""What a reading takes, measured with the job itself.

Bytes are a reading's unless they say otherwise; CPU is one core's time, in µs. Both were measured on
two shared cores; tests/deploy/test_cost.py measures all but the whole job's time again.
"""

from __future__ import annotations

# 50 simulated cells at 1 Hz.
MESSAGE = 460  # JSON and key
RAW = 31  # the message in the lake's raw archive
PARQUET = 54  # the reading in the lake
ARROW = 258  # the row as it travels through the job and to BigQuery
LOGICAL = 202  # the row as BigQuery bills its storage

# 20,000 equipments at 1 Hz: hardly two readings of a batch are of the same one.
PIECE = 5_000  # a shard's part of a batch, in the state that waits for a window's end
WAITING = 75  # a reading in it
RECENT = 55  # a reading that later ones may have to be put among
EQUIPMENT = 59  # what is remembered of an equipment
HELD = 90  # a reading on its way to the sinks
HELD_MESSAGE = 67  # a message on its way to the raw archive

# The whole job, from Kafka to lake and DuckDB, on the local runner with 8 shards (make bench
# ARGS="--only live").
CPU = 19.0
DECODE_CPU = 1.25  # of that, what decoding takes
PIECE_CPU = 800.0  # a shard's part of a batch: cut, encoded, decoded
LAKE_CPU = 1.2  # a reading gathered for a file of the lake, and written
