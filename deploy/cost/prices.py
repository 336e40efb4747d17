"""List prices of us-central1 as known in 2025, in US dollars, without free tiers and discounts."""

from __future__ import annotations

MILLION = 1_000_000
GIB = 2**30
TIB = 2**40
HOURS = 720  # of a month of 30 days
SECONDS = HOURS * 3600

PUBSUB_TIB = 40.0  # published, and again when it is delivered
PUBSUB_OVERHEAD = 20  # bytes a message, billed beside its own
PUBSUB_KEPT = 0.27  # a GiB and month

# Dataflow, streaming.
VCPU_HOUR = 0.069
MEMORY_HOUR = 0.003557  # a GiB
DISK_HOUR = 0.000054  # a GiB
STREAMING_ENGINE = 0.018  # a GiB processed

# Compute Engine, N2.
N2_VCPU_HOUR = 0.031611
N2_MEMORY_HOUR = 0.004237  # a GiB
DISK = 0.10  # a GiB and month, balanced

STANDARD, COLDLINE = 0.020, 0.004  # a GiB and month
CLASS_A = 0.005 / 1000  # an object written, a page of names listed
WRITE_API = 0.025  # a GiB
TABLE = 0.023  # a GiB and month, active
