"""Find hyperparameters before a run."""
