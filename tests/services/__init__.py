"""Real services that the integration tests start themselves, each a process of its own."""
