"""Where the neurons of a model are, and how to read and change them while the model runs.

Start with `site.py`, which describes one place. `discovery.py` finds the sites of a model by structure (with
`probe.py`, `matching.py` and `proof.py`), and `tap.py` sets the hooks.
"""
