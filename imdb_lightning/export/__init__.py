"""Export of a model for other programs."""
