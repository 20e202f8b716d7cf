"""Models: building them, loading and saving weights, and finding the linear layers of their transformer blocks."""
