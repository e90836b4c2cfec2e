"""Recipes beyond the report: an ablation ladder, baselines, and combinations."""
