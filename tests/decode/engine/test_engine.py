"""The engine computes what the Hugging Face model computes, dense and under thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from sparsing.decode.engine import open_engine
from sparsing.decode.engine.choose import choose_ways
from sparsing.decode.engine.feed_forward import DENSE
from sparsing.decode.engine.rule import dense_rule, sparse_rule
from sparsing.decode.engine.writing import engine_stats, write
from sparsing.errors import InputError, UnsupportedModelError, WeakResultWarning
from sparsing.models.gguf_export import export_gguf
from sparsing.rules.mask import sparsify
from sparsing.rules.thresholds import Thresholds
from sparsing.sites.discovery import find_sites

from ...helpers import tiny
from ...helpers.gguf_files import HEAD_DIM, TOKENS, write_gguf
from ...helpers.gguf_models import CONFIGS, IDS, build, error, reference_logits


def thresholds_of(model, value, on="neuron_norm"):
    return Thresholds(rule="cett", level=0.1, on=on, values={site.name: value for site in find_sites(model)})


def open_tiny(tmp_path, model, weight_type="F32", **options):
    path = export_gguf(model, tmp_path / "model.gguf", weight_type=weight_type)
    return open_engine(path, context=64, **{"threads": 1, **options})


@pytest.fixture
def ids():
    return IDS


@pytest.mark.parametrize("name", CONFIGS)
def test_dense_logits_are_those_of_hugging_face(tmp_path, name, ids):
    model = build(name)
    with open_tiny(tmp_path, model) as engine:
        got = engine.read(ids, all_logits=True)
        assert error(got, reference_logits(model, ids)) < 2e-3  # the cache of keys and values is float16
        engine.rewind()
        np.testing.assert_array_equal(engine.read(ids), got[-1])


@pytest.mark.parametrize("name", CONFIGS)
def test_sparse_logits_are_those_of_the_masked_model(tmp_path, name, ids):
    model = build(name)
    threshold = 0.15 if "granite" not in name else 0.3
    thresholds = thresholds_of(model, threshold)
    with sparsify(model, thresholds):
        wanted = reference_logits(model, ids)
    with open_tiny(tmp_path, model) as engine:
        engine.rule = sparse_rule(engine.arch, engine.weights, thresholds)
        got = engine.read(ids, all_logits=True)
        active = engine_stats(engine, len(ids)).activation_ratio
        assert 0.02 < active < 0.98
        assert error(got, wanted) < 3e-2  # int8 copy of down; a neuron at its threshold may differ
        # the dense way applies the same rule with the weights of the file; again a neuron may differ
        engine.array("ways")[:] = DENSE
        engine.rewind()
        assert error(engine.read(ids, all_logits=True), wanted) < 3e-2


@pytest.mark.parametrize("on", ["gate", "h", "neuron_norm"])
@pytest.mark.parametrize("value", [0.0, 1e9])
@pytest.mark.parametrize("name", ["llama relu", "llama", "arcee (relu2 without gate)"])
def test_full_and_empty_active_sets(tmp_path, name, value, on, ids):
    model = build(name)
    thresholds = thresholds_of(model, value, on)
    with sparsify(model, thresholds):
        wanted = reference_logits(model, ids)
    with open_tiny(tmp_path, model) as engine:
        engine.rule = sparse_rule(engine.arch, engine.weights, thresholds)
        assert error(engine.read(ids, all_logits=True), wanted) < 1e-2
        assert (engine_stats(engine, len(ids)).activation_ratio == 0) == (value > 0)


@pytest.mark.parametrize("two_part_inputs", [False, True])
@pytest.mark.parametrize("weight_type", ["F16", "BF16", "Q8_0", "Q5_1", "Q4_0"])
def test_quantised_weights(tmp_path, weight_type, two_part_inputs, ids):
    import gguf
    import torch

    model, kind = build("granite relu"), gguf.GGMLQuantizationType[weight_type]
    for weight in model.state_dict().values():
        if weight.ndim == 2:
            weight.copy_(torch.from_numpy(gguf.dequantize(gguf.quantize(weight.numpy(), kind), kind)))
    # a bfloat16 input has 8 bits, and no second part; the cache of keys and values is float16
    limit = 3e-3 if two_part_inputs and weight_type != "BF16" else 3e-2
    with open_tiny(tmp_path, model, weight_type, two_part_inputs=two_part_inputs) as engine:
        assert error(engine.read(ids, all_logits=True), reference_logits(model, ids)) < limit
        dense = engine.array("logits").copy()
        engine.rewind()
        engine.rule = sparse_rule(engine.arch, engine.weights, None)
        assert error(engine.read(ids), dense) < 3e-2


def test_number_of_threads_changes_nothing(tmp_path, ids):
    model = build("granite relu")
    results = []
    for threads in (1, 2, 3):
        with open_tiny(tmp_path, model, "Q8_0", threads=threads) as engine:
            dense = engine.read(ids, all_logits=True)
            engine.rewind()
            engine.rule = sparse_rule(engine.arch, engine.weights, None)
            results.append((dense, engine.read(ids, all_logits=True)))
    for dense, sparse in results[1:]:
        np.testing.assert_array_equal(dense, results[0][0])
        assert error(sparse, results[0][1]) < 1e-2  # parts of the sum are added in another order


def test_choice_of_ways_changes_no_output(tmp_path, ids):
    model = build("granite relu")
    with open_tiny(tmp_path, model) as engine:
        engine.rule = rule = sparse_rule(engine.arch, engine.weights, None)
        wanted = engine.read(ids)
        engine.rewind()
        ratios = choose_ways(engine, ids)
        assert ratios.shape == (engine.arch.n_layers,)
        assert engine.position == 0
        assert [copy is None for copy in rule.copies] == (engine.array("ways") == DENSE).tolist()
        assert error(engine.read(ids), wanted) < 1e-2
        rule.keep_dense(range(engine.arch.n_layers))
        assert rule.copy_bytes == 0
        engine.rewind()
        assert error(engine.read(ids), wanted) < 1e-2


def test_ways_are_timed_on_the_text_itself(tmp_path, ids, monkeypatch):
    """Each token is read after the tokens before it, so the active neurons are those of the text."""
    with open_tiny(tmp_path, build("granite relu")) as engine:
        engine.rule = sparse_rule(engine.arch, engine.weights, None)
        wanted, read, found = engine.read(ids, all_logits=True), engine.read, []
        engine.rewind()
        monkeypatch.setattr(engine, "read", lambda tokens: found.append(read(tokens)) or found[-1])
        choose_ways(engine, ids)
    dense, sparse = found[2::2], found[3::2]
    assert error(np.stack(sparse), wanted) < 1e-2
    assert error(np.stack(dense), wanted) < 1e-2


@pytest.mark.parametrize("damaged", [0.0, -1.0, np.nan, np.inf])
def test_damaged_factors_of_rotary_frequencies_are_refused(damaged, tmp_path):
    factors = np.ones(HEAD_DIM // 2)
    factors[1] = damaged
    model = tiny.build("llama", vocab_size=len(TOKENS), head_dim=HEAD_DIM)
    path = write_gguf(tmp_path / "m.gguf", model, tensors={"rope_freqs.weight": factors})
    with pytest.raises(InputError, match=r"rope_freqs.weight must be finite and above 0"):
        open_engine(path)


def test_a_sample_without_tokens_is_refused(tmp_path):
    with open_tiny(tmp_path, build("granite relu")) as engine:
        engine.rule = sparse_rule(engine.arch, engine.weights, None)
        with pytest.raises(InputError, match="at least one token"):
            choose_ways(engine, [])


def test_stats_count_rows_and_bytes(tmp_path, ids):
    model = build("llama relu")
    with open_tiny(tmp_path, model) as engine:
        engine.read(ids)
        dense = engine_stats(engine, len(ids))
        assert (dense.activation_ratio, dense.ffn_bytes_ratio, dense.sparse_layers) == (1, 1, 0)
        assert dense.bytes_per_token == dense.dense_bytes_per_token
        matrices = sum(w.numel() for n, w in model.state_dict().items() if w.ndim == 2 and "embed" not in n)
        assert dense.dense_bytes_per_token == 4 * matrices
        engine.rewind()
        engine.reset_counts()
        engine.rule = sparse_rule(engine.arch, engine.weights, None)
        engine.read(ids)
        sparse = engine_stats(engine, len(ids))
        assert 0.3 < sparse.activation_ratio < 0.7
        assert 1 / 3 < sparse.ffn_bytes_ratio < 1
        shares = sparse.shares
        assert shares.attention + shares.feed_forward + shares.head == pytest.approx(1)


def test_text_continues_and_stops(tmp_path, ids):
    model = build("llama")
    with open_tiny(tmp_path, model) as engine:
        written = write(engine, ids, max_new_tokens=6)
        assert len(written.ids) == 6
        assert len(written.later_sec) == 5
        wanted = list(ids)
        for _ in range(6):
            wanted.append(int(reference_logits(model, wanted)[-1].argmax()))
        assert list(written.ids) == wanted[len(ids) :]
        engine.rewind()
        assert write(engine, ids, max_new_tokens=6, end_id=written.ids[0]).ids == ()
        engine.rewind()
        with pytest.raises(InputError, match="do not fit"):
            write(engine, ids, max_new_tokens=64)


@pytest.mark.parametrize("weight_type", ["Q4_0", "Q8_0"])
def test_without_memory_for_a_copy_the_matrices_stay_in_the_file(tmp_path, monkeypatch, ids, weight_type):
    model = build("llama")
    with open_tiny(tmp_path, model, weight_type) as engine:
        wanted = engine.read(ids)
    monkeypatch.setattr("sparsing.decode.engine.weights.free_memory", lambda: 1000)
    with pytest.warns(WeakResultWarning, match="GB of memory are free for .* stay in the mapped file"):
        engine = open_tiny(tmp_path, model, weight_type)
    with engine:
        assert not engine.weights.copies
        # eight interleaved rows of Q4_0 are added up in another order
        np.testing.assert_allclose(engine.read(ids), wanted, atol=1e-5)


def test_an_embedding_that_is_only_looked_up_is_not_copied(tmp_path):
    """It would take the memory of the vocabulary again."""
    with open_tiny(tmp_path, build("llama"), "Q4_0") as engine:
        assert "output.weight" in engine.weights.file.tensors
        assert len(engine.weights.copies) == 7 * engine.arch.n_layers + 1, (
            "the matrices of the layers and the head"
        )


def test_wrong_arguments_are_refused_before_work(tmp_path, ids):
    model = build("llama")
    path = export_gguf(model, tmp_path / "model.gguf", weight_type="F32")
    for wrong in ({"threads": 0}, {"context": 0}):
        with pytest.raises(InputError, match="threads from 1"):
            open_engine(path, **wrong)
    with open_engine(path, context=4, threads=1) as engine:
        for tokens, message in (
            ([], "at least one"),
            ([96], "0 to 95, got 96"),
            ([-1], "got -1"),
            (ids, "do not fit"),
        ):
            with pytest.raises(InputError, match=message):
                engine.read(tokens)
        with pytest.raises(InputError, match="position"):
            engine.rewind(1)
        with pytest.raises(InputError, match="needs thresholds"):
            sparse_rule(engine.arch, engine.weights, None)  # SiLU has no exact zeros
        other = thresholds_of(build("llama relu"), 0.1)
        with pytest.raises(InputError, match="do not belong"):
            sparse_rule(engine.arch, engine.weights, other)
        top_k = Thresholds(rule="top_k", level=0.1, on="gate", select="top_k", values=[0.1] * 3)
        with pytest.raises(InputError, match="by threshold"):
            sparse_rule(engine.arch, engine.weights, top_k)
        assert dense_rule(engine.arch).copy_bytes == 0


def test_other_architectures_and_tensors_are_refused(tmp_path):
    import gguf

    path = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_tensor("token_embd.weight", np.zeros((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedModelError, match="'mamba' is not decoded"):
        open_engine(path)
