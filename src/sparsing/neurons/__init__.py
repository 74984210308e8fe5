"""Studies of neurons: how often each feed-forward neuron fires, where it is largest, which words it promotes.

Start with `study.py`: one dense pass per corpus in bounded memory (`neuron_observer.py`), then the numbers of every
layer. `store.py` writes a study to a folder, and `study_comparison.py` compares studies of corpora and models.
"""
