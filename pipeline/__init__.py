"""The runnable job: everything that knows a flag, a client or a runner."""
