"""Code that creates a W&B workspace and a W&B report of a sweep, with the tables and panels of the project's report."""
