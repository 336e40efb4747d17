"""What differs by engine: each as a few properties, how it is started, checked, stopped and asked."""
