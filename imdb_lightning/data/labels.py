"""The two labels."""

LABELS = ("negative", "positive")  # names of the labels 0 and 1
NO_LABEL = -1  # of a review in the unlabelled split
