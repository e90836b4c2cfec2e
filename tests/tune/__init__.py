"""Tests of imdb_lightning.tune."""
