"""What training leaves in a run's folder; importing this needs no torch."""

CHECKPOINT, CHECKPOINT_BEFORE = "checkpoint.pt", "checkpoint_before.pt"  # the second is used where the first is damaged
BEST = "best.pt"  # weights of the best epoch so far (train.select=best)
MONITOR = "monitor.csv"  # train.monitor=true
