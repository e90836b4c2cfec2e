"""Tests of imdb_lightning.loggers."""
