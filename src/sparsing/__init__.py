"""Measure, exploit and predict activation sparsity in large language models.

This module lists the public names. Each name is loaded on first use, so `import sparsing` imports neither torch nor
numpy. `docs/design.md` describes the packages below.
"""

from __future__ import annotations

from sparsing.base.lazy import lazy_exports

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
"""Public name to the module that defines the name."""

__all__ = ["__version__", *sorted(_HOME)]
__getattr__, __dir__ = lazy_exports(__name__, _HOME)
