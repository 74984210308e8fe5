"""Chooses the fastest kernel for each block by short timings on this machine."""
