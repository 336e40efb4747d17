"""Pure kernels of the predictions: what a model is given, and how wide its intervals are."""
