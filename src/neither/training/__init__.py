"""Train a network: the loop, the step, the optimizer, the run folder, TensorBoard."""
