"""Explanations of one prediction: trajectory, contributions, gates."""
