"""Building blocks that every other package uses: results on disk, provenance, registries, progress bars."""
