"""Pretraining of the embedding."""
