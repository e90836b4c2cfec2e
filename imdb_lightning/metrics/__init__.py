"""Metrics of predictions: significance, calibration, scores."""
