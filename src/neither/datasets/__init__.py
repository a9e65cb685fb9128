"""Images from published datasets: CIFAR, and any dataset in COCO's format."""
