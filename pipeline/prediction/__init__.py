"""Models as files: training them from cells whose life is known, and predicting with them."""
