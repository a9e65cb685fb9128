"""Real pictures from published sets: CIFAR, and any set in COCO's format."""
