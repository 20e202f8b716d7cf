"""Layers whose weights, saved inputs or both are low-rank. They know nothing of timing, logging or options."""
