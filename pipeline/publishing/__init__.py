"""The parts of `python -m pipeline.publish`: a source's readings as messages, paced and sent."""
