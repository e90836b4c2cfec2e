"""How fast it is: python -m imdb_lightning.bench layers | step | epoch | scaling."""
