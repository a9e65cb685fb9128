"""Train a network: the loop, optimizer, schedule, tracking to TensorBoard."""
