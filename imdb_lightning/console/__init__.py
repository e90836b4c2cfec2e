"""The console script imdb-lightning, and its completion in shells."""
