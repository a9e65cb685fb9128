"""Fixtures of a classifier with known predictions."""

from color_classifier import classifier, draw

__all__ = ["classifier", "draw"]
