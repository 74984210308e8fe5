"""Loading of checkpoints. Start with `load_model` in `loading.py`.

`checkpoint.py` finds the files, `architecture.py` decides which model class they need, `minicpm.py` maps MiniCPM to
Granite. `published.py` lists the published checkpoints and `paper_shapes.py` the shapes that can be trained by name.
"""
