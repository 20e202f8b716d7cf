"""The optimizer step, in its variants, and the training loop around it."""
