"""Images and labels: what there is, which of it a run uses, and in which order."""
