"""Transfer from finished runs: pretrained vectors, and soft labels from teachers."""
