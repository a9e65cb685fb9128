"""A checkpoint as a classifier: image files in, named probabilities out."""
