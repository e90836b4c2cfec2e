"""Run directories: files, checkpoints, resuming, sweeps, and the launcher of a grid."""
