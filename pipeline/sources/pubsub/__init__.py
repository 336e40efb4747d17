"""Pub/Sub as a source: with leases of our own here and on engines that checkpoint, else by Beam's own step."""
