"""Headings of sections and titles of figures that report.html and W&B's dashboard have in common."""

ACCURACY = "Accuracy against cost"
MEMORY = "Where memory goes"
TIME = "Where a step's time goes"
EPSILON = "Time against epsilon"
SAVINGS = "Predicted against measured savings"
RANKS = "Ranks of every layer"
STABILITY = "Are ranks and subspaces stable?"
CURVES = "Loss and accuracy while training"

MEMORY_OF_A_STEP = "Memory of a training step (MiB)"
TIME_OF_A_STEP = "Time of a training step (ms)"
VALIDATION_CURVES = {"val/loss": "Validation loss", "val/acc": "Validation accuracy"}
STABILITY_FIGURES = {
    "rank_at_threshold": ("Rank of the weights at the threshold", "rank / rank before training"),
    "angle_mean_deg": ("Rotation of the weights' subspace", "mean principal angle to the start (degrees)"),
    "variance": ("Explained variance of the saved inputs' features", "share of the variance"),
    "tucker_error": ("Error of the saved inputs", "relative Frobenius error"),
}
"""Title and axis of a figure by the column of monitor.csv; `variance` is that of the last mode, the features."""
