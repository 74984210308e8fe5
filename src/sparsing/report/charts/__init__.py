"""Every chart of the package, described once from saved results: one module per topic."""
