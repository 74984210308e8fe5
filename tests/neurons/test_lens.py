"""The promoted and demoted tokens of a neuron against the full product of embedding and column."""

from __future__ import annotations

from sparsing.neurons.lens import promoted_tokens

from ..helpers.measuring import tiny_loaded


def test_what_a_column_promotes():
    model = tiny_loaded()
    site, embedding = model.sites[1], model.model.get_output_embeddings().weight
    up, down = promoted_tokens(model, site, 5)
    logits = embedding[: len(model.tokenizer)].double() @ site.weight.double()
    for neuron in (0, 9, site.d_ff - 1):
        order = logits[:, neuron].argsort(descending=True)
        assert up[neuron].tolist() == order[:5].tolist()
        assert down[neuron].tolist() == order.flip(0)[:5].tolist()
