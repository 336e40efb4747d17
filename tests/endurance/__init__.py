"""Long runs of the live job against a real broker: what it survives, and whether it stays flat."""
