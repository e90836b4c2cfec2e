"""How a model reads a review."""
