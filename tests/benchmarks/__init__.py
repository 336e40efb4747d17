"""Benchmarks: ratios of runs that alternate on one machine; no test depends on a time."""
