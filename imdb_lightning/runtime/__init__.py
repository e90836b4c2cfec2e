"""The process: settings, threads, signals, random state, and what it computed with."""
