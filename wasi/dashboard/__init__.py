"""A sweep in W&B: a workspace and a report with the tables and panels of the project's own report, as code."""
