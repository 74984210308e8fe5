"""Perplexities as others compute them: rows joined by two line breaks, overlapping windows, the whole text."""

from __future__ import annotations

import math

import pytest
import torch

from sparsing.measuring.subject import Subject
from sparsing.text.corpus import load_corpus

from ..helpers.measuring import source_text, trained
from ..helpers.texts import write_jsonl

WINDOW = 48


@pytest.fixture(scope="module")
def rows() -> list[str]:
    """Rows as those of WikiText: headings, empty rows, and a line break at the end of each row."""
    lines = source_text()[:3000].splitlines(keepends=True)
    return [row for line in lines for row in ("", line)]


def usual_perplexity(model, ids: torch.Tensor, *, stride: int) -> float:
    """The script of the guide of transformers: labels of the overlap are -100, the mean is over the labels."""
    total, count, before = 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + WINDOW, ids.shape[1])
        part = ids[:, begin:end]
        labels = part.clone()
        labels[:, : -(end - before)] = -100
        num = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            total += model(part, labels=labels).loss.double().item() * num
        count, before = count + num, end
        if end == ids.shape[1]:
            break
    return math.exp(total / count)


@pytest.mark.parametrize("stride", [WINDOW, WINDOW // 2, 7])
def test_joined_rows_give_the_perplexity_of_the_usual_script(stride, rows, tmp_path):
    loaded = trained()
    ids = loaded.tokenizer("\n\n".join(rows), return_tensors="pt", add_special_tokens=False)["input_ids"]
    path = write_jsonl(tmp_path / "rows.jsonl", [{"text": row} for row in rows])
    corpus = load_corpus(path, loaded.tokenizer, window=WINDOW, stride=stride, join="\n\n")
    assert corpus.ids.tolist() == ids[0].tolist()
    curves = Subject(loaded, corpus).curves
    assert curves.ppl == pytest.approx(usual_perplexity(loaded.model, ids, stride=stride), rel=1e-5)
    packed = load_corpus(path, loaded.tokenizer, window=WINDOW, stride=stride)
    assert packed.num_tokens != corpus.num_tokens
