"""Search for hyperparameters: Optuna proposes trials, each of which is a run."""
