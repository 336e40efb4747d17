"""Pub/Sub as a source: here with leases of our own, elsewhere by Beam's own step."""
