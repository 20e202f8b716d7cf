"""Names under which runs show things in W&B, for those who look at them there."""

TRAIN_STEP = "train/step"
LAYER_TABLE = "layers"
FIGURES = {"memory": "figures/memory", "ranks": "figures/ranks"}
MEMORY_PARTS = ("weights", "gradients", "optimizer", "activations", "temporary")
"""Of `memory/train_peak_mib`, which they sum to."""
