"""Train a small image classifier that knows when to say: neither."""
