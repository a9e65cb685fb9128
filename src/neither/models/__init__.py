"""Networks that return logits, softmax, class activation maps, checkpoint files."""
