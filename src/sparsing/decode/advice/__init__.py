"""Answers whether skipping neurons pays on this machine: byte ceiling, measured speed-up, and a sentence."""
