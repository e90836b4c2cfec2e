"""What a run takes from finished runs: pretrained vectors, and soft labels from teachers."""
