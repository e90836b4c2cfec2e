"""Benchmarks: ratios between things that are timed in one run, in shuffled order."""
