"""Measure, exploit and predict activation sparsity in large language models.

Public names are loaded on first use, so that `import sparsing` costs nothing.
"""

from __future__ import annotations

from sparsing.base.lazy import lazily

__version__ = "0.1.0"

_HOME = {
    "Corpus": "text.corpus",
    "Curves": "rules.curves",
    "LoadedModel": "models.loading",
    "Measurement": "measuring.measurement",
    "RuleComparison": "measuring.frontier",
    "Site": "sites.site",
    "SparsityError": "errors",
    "Subject": "measuring.subject",
    "Thresholds": "rules.thresholds",
    "calibrate": "measuring.calibration",
    "compare": "measuring.frontier",
    "find_sites": "sites.discovery",
    "load_corpus": "text.corpus",
    "load_model": "models.loading",
    "load_sparse": "rules.mask",
    "measure": "measuring._measure",
    "sparsify": "rules.mask",
    "split_holdout": "text.corpus",
}
"""Public name to module. No module is called like a function it exports: the module would hide it here."""

__all__ = ["__version__", *sorted(_HOME)]
__getattr__, __dir__ = lazily(__name__, _HOME)
