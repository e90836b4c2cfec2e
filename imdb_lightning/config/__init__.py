"""The configuration: its schema, the command line's overrides, and when two runs are the same."""
