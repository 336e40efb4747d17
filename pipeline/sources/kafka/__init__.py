"""Kafka as a source: live here or on many workers, or up to what is there now."""
