"""Data sets: reading and checking them, choosing the images of a run, augmentation and batches."""
