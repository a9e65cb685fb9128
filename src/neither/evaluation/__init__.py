"""Score a classifier on a folder: metrics, predictions, what goes where."""
