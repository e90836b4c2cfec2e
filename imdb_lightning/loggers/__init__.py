"""The loggers of a run, and its figures."""
