"""The report on runs, beside the published one."""
