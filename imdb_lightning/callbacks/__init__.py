"""Lightning callbacks: run logger, test report, checkpoints, EMA, adversarial training, ..."""
