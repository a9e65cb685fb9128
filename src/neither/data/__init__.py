"""Find, check, split, decode, store and augment images; batches out."""
