"""Names of the files that training writes to a run's folder; this module does not import torch."""

CHECKPOINT, CHECKPOINT_BEFORE = "checkpoint.pt", "checkpoint_before.pt"  # the second is used if the first is damaged
BEST = "best.pt"  # weights of the best epoch so far (train.select=best)
MONITOR = "monitor.csv"  # train.monitor=true
