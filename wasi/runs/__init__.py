"""What surrounds a run: its folder, its result file, its provenance, and how it ends."""
