"""Models: building them, their weights, and where their transformer blocks' linear layers are."""
