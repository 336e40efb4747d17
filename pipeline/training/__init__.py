"""Training of models: cells whose whole life is known, and what learns from them."""
