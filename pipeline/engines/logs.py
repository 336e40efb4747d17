"""The loggers of Beam's runners, for whoever makes one line of what they log."""

RUNNERS = "apache_beam.runners"
# Logs what a step raised, with its traceback.
STEPS = f"{RUNNERS}.common"
