"""Names under which W&B shows parts of a run, for the code that writes them and the code that reads them."""

TRAIN_STEP = "train/step"
ROW = "row"
"""Key of a run's config: equal for runs that differ by seed alone."""
THRESHOLDS = "thresholds"
"""Key of a run's config: those that its method reads, `weights` and `activations`; absent where it reads none."""
EPSILON = "epsilon"
"""Key within `THRESHOLDS` of the one that figures use: the weights' or, where these are dense, the activations'."""
LAYER_TABLE = "layers"
FIGURES = {"memory": "figures/memory", "time": "figures/time", "ranks": "figures/ranks"}
