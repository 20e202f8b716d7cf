"""What surrounds a run: its folder, its result file, its provenance, its exit status, and sweeps of several runs."""
