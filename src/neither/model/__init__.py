"""Networks that return logits, softmax and its temperature, checkpoint files."""
