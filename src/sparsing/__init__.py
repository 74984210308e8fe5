"""Measure, exploit and predict activation sparsity in large language models.

This module lists the public names. Each name is loaded on first use, so `import sparsing` imports neither torch nor
numpy. `docs/design.md` describes the packages below.
"""

from __future__ import annotations

from sparsing.base.lazy import lazy_exports

__version__ = "0.1.0"

_HOME = {
    "Comparison": "measuring.frontier",
    "Corpus": "text.corpus",
    "Curves": "measuring.calibration",
    "FFNSite": "sites.site",
    "LoadedModel": "models.loading",
    "Measurement": "measuring.measurement",
    "SparsityError": "errors",
    "Subject": "measuring.subject",
    "Thresholds": "rules.thresholds",
    "calibrate": "measuring.calibration",
    "compare": "measuring.frontier",
    "find_sites": "sites.site",
    "load_corpus": "text.corpus",
    "load_model": "models.loading",
    "load_sparse": "rules.mask",
    "measure": "measuring.subject",
    "sparsify": "rules.mask",
    "split_holdout": "text.corpus",
}
"""Public name to the module that defines the name."""

__all__ = ["__version__", *sorted(_HOME)]
__getattr__, __dir__ = lazy_exports(__name__, _HOME)
