"""What the replay of dead letters is made of: flags, letters, corrections, and what was sent."""
