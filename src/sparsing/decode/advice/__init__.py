"""Advice whether skipping neurons pays here: the bandwidth-limited and the measured speed-up, and a sentence.

Start with `_advise.advise`, which `sparsing advise` calls.
"""
