"""Validation, fingerprints and folder names of configurations; needs neither torch nor a model library."""
