"""The measurement itself: passes over a corpus, calibration curves, the search for PPL-p%, and verified results.

Start with `subject.py`, which holds the main job (`measure`).
"""
