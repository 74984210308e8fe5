"""Advice whether skipping neurons pays on this machine: the byte ceiling, the measured speed-up, and a sentence.

Start with `_advise.advise`, which `sparsing advise` calls.
"""
