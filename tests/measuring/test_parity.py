"""Agreement with the reference code's printed results on two tiny random MiniCPM checkpoints."""

from __future__ import annotations

import functools
import json

import pytest
import torch

from sparsing.measuring._measure import measure
from sparsing.measuring.subject import Subject
from sparsing.models.loading import load_model
from sparsing.rules import make_rule
from sparsing.rules.thresholds import Thresholds
from sparsing.text.corpus import load_corpus

from ..conftest import SHARED

GOLDEN = SHARED / "parity" / "golden.json"
pytestmark = pytest.mark.skipif(not GOLDEN.exists(), reason="needs shared/parity beside the repository")
RUNS = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {"runs": []}
IDS = [f"{run['ckpt']}-{run['strategy']}-{run['arg']}" for run in RUNS["runs"]]


@functools.cache
def subject(checkpoint: str) -> Subject:
    """The checkpoint on the whole text as one window, BOS counted as in the reference."""
    loaded = load_model(SHARED / "parity" / checkpoint, dtype="float32", device="cpu")
    corpus = load_corpus([RUNS["text"]], loaded.tokenizer, window=100_000, bos="always", count_bos=True)
    assert corpus.n_windows == 1
    return Subject(loaded, corpus, longer_windows=True)


@pytest.mark.filterwarnings("ignore:.*stay dense:UserWarning")
@pytest.mark.parametrize("run", RUNS["runs"], ids=IDS)
def test_a_run_of_the_reference(run):
    bench = subject(run["ckpt"])
    assert bench.corpus.num_tokens == run["tokens"]
    names = {"fat": "fat", "topk": "top_k", "cett": "cett"}
    options = {"scope": "sequence"} if run["strategy"] == "topk" else {}
    rule = make_rule(names[run["strategy"]], **options)
    exact = run["strategy"] in ("fat", "topk")
    found = measure(bench, rule, level=run["arg"])
    ratio, ppl = (1e-5, 1e-5) if exact else (2e-3, 1e-4)
    assert found.activation_ratio == pytest.approx(run["activation_ratio"], abs=ratio)
    assert found.layer_activation_ratio == pytest.approx(run["layer_activation_ratio"], abs=max(ratio, 1e-5))
    assert found.ppl_ratio == pytest.approx(run["ppl_ratio"], abs=ppl)
    assert torch.tensor(found.ppl_dense).log().item() == pytest.approx(run["dense_nll"], abs=1e-5)
    if not exact:
        wanted = Thresholds.from_line(run["thresholds"]).numbers
        assert found.thresholds.numbers == pytest.approx(wanted, rel=0.01)


@pytest.mark.filterwarnings("ignore:.*stay dense:UserWarning")
@pytest.mark.parametrize(
    "run", [r for r in RUNS["runs"] if r["thresholds"]], ids=lambda r: f"{r['ckpt']}-{r['arg']}"
)
def test_thresholds_of_the_reference_give_its_ratio(run):
    found = measure(subject(run["ckpt"]), thresholds=Thresholds.from_line(run["thresholds"]))
    assert found.activation_ratio == pytest.approx(run["activation_ratio"], abs=1e-4)
    assert found.ppl_ratio == pytest.approx(run["ppl_ratio"], abs=1e-4)  # its line has five digits
    assert found.thresholds.to_line() == f"thresholds={run['thresholds']}"
