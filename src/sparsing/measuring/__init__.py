"""The measurement itself: passes over a corpus, calibration curves, the search for PPL-p%, and verified results.

Start with `_measure.py`, the main job (`measure`), and `passes.py`, which runs a model over a corpus.
"""
