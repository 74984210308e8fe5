"""What every feed-forward neuron does on a corpus: how often it fires, where most, what it writes, with whom.

One dense pass in bounded memory (`watcher.py`); `study.py` puts the pieces together, `store.py` writes them.
"""
