"""Text on its way to the model: reading (`reading.py`), windows of token ids (`corpus.py`), and back (`token_text.py`).

Nothing here knows a model. Start with `load_corpus` in `corpus.py`. Reading is divided into `files.py` (compression,
encoding, formats), `rows.py` (structured files), `folders.py` and `dataset_sources.py`.
"""
