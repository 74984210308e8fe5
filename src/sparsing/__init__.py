"""Measure, exploit and predict activation sparsity in large language models.

Public names are loaded on first use, so that `import sparsing` costs nothing.
"""

from __future__ import annotations

from sparsing.lazy import lazily

__version__ = "0.1.0"

_HOME = {
    "Comparison": "frontier",
    "Corpus": "corpus",
    "Curves": "curves",
    "FFNSite": "sites",
    "LoadedModel": "models",
    "Measurement": "measurement",
    "SparsityError": "errors",
    "Subject": "subject",
    "Thresholds": "thresholds",
    "calibrate": "curves",
    "compare": "frontier",
    "find_sites": "sites",
    "load_corpus": "corpus",
    "load_model": "models",
    "load_sparse": "mask",
    "measure": "subject",
    "sparsify": "mask",
    "split_holdout": "corpus",
}
"""Public name to module. No module is called like a function it exports: the module would hide it here."""

__all__ = ["__version__", *sorted(_HOME)]
__getattr__, __dir__ = lazily(__name__, _HOME)
