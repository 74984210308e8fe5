"""Loading of checkpoints: where the files are, which architecture they need, and the published models by name."""
