"""Layers with a low-rank weight, a low-rank saved input, or both; independent of timing, logging and configuration."""
