"""A GGUF file gives the model and the tokenizer that it holds; what the reader would pass over is refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from sparsing.errors import InputError, UnsupportedModelError
from sparsing.measuring._measure import measure
from sparsing.measuring.subject import Subject
from sparsing.models.loading import load_model
from sparsing.text.corpus import load_corpus

from ..helpers.gguf_files import HEAD_DIM, TOKENS, write_gguf
from ..helpers.measuring import loaded, random_text
from ..helpers.tiny import build

gguf = pytest.importorskip("gguf", reason="needs the package gguf: pip install 'sparsing[gguf]'")


@pytest.fixture(scope="module")
def model():
    """Wide enough for rows of Q8_0, which are multiples of 32."""
    return build("llama", vocab_size=len(TOKENS), head_dim=HEAD_DIM)


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", model)


def logits(model, ids) -> torch.Tensor:
    with torch.no_grad():
        return model(ids, use_cache=False).logits


def test_the_model_of_the_file(path, model, tiny_input, caplog):
    found = load_model(path)
    assert torch.equal(logits(found.model, tiny_input()), logits(model, tiny_input()))
    assert (found.dtype, found.model_type, found.name) == ("float32", "llama", str(path))
    assert "tiny.gguf: weights of F32, dequantised to float32 in memory" in caplog.text


def test_a_file_without_the_suffix(path, model, tiny_input):
    other = path.with_name("blob")
    other.write_bytes(path.read_bytes())
    assert torch.equal(logits(load_model(other).model, tiny_input()), logits(model, tiny_input()))


def test_tokenizer_and_chat_template_are_those_of_the_file(path):
    tokenizer = load_model(path).tokenizer
    one, two, joined = TOKENS.index("1"), TOKENS.index("2"), TOKENS.index("12")
    assert joined not in tokenizer("12", add_special_tokens=False)["input_ids"]  # `smollm` separates digits
    assert tokenizer("12", add_special_tokens=False)["input_ids"] == [one, two]
    assert tokenizer("in", add_special_tokens=False)["input_ids"] == [TOKENS.index("in")]
    assert tokenizer.decode(tokenizer("12 in x", add_special_tokens=False)["input_ids"]) == "12 in x"
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat == "[hi]"


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("smollm", "a 12's", ["a", "Ġ", "1", "2", "'s"]),
        ("gpt-2", "a 12's", ["a", "Ġ12", "'s"]),
        ("llama-bpe", "a 1234\n\nb", ["a", "Ġ", "123", "4", "ĊĊ", "b"]),
        ("qwen2", "a 12'S\n\nb", ["a", "Ġ", "1", "2", "'S", "ĊĊ", "b"]),
    ],
)
def test_the_text_is_cut_as_llama_cpp_does(pre, text, pieces, model, tmp_path):
    tokenizer = load_model(write_gguf(tmp_path / "m.gguf", model, pre=pre)).tokenizer
    cut = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    assert [piece for piece, _ in cut] == pieces


def test_an_unknown_pre_tokenizer_is_refused(model, tmp_path):
    with pytest.raises(InputError, match=r"the pre-tokenizer 'tekken' .* is not known.*allowed: .*smollm"):
        load_model(write_gguf(tmp_path / "m.gguf", model, pre="tekken"))


def test_quantised_weights_are_those_that_the_package_dequantises(model, tmp_path, tiny_input):
    path = write_gguf(tmp_path / "m.gguf", model, quantisation="Q8_0")
    right = build("llama", vocab_size=len(TOKENS), head_dim=HEAD_DIM)
    with torch.no_grad():
        for parameter in right.parameters():
            if parameter.ndim == 2:
                kind = gguf.GGMLQuantizationType.Q8_0
                codes = gguf.quantize(parameter.detach().numpy(), kind)
                parameter.copy_(torch.from_numpy(gguf.dequantize(codes, kind)))
    found = load_model(path)
    torch.testing.assert_close(logits(found.model, tiny_input()), logits(right, tiny_input()))
    assert not torch.equal(logits(found.model, tiny_input()), logits(model, tiny_input()))
    assert load_model(path, dtype="bfloat16").dtype == "bfloat16"


def test_a_measurement_equals_that_of_the_model(path, model):
    found = load_model(path)
    corpus = load_corpus([random_text(400)], found.tokenizer, window=32)
    results = [measure(Subject(m, corpus), "cett", level=0.2) for m in (found, loaded(model))]
    assert results[0].thresholds.values == results[1].thresholds.values
    assert results[0].ppl_sparse == results[1].ppl_sparse


def test_factors_of_rotary_frequencies_are_applied(model, tmp_path, tiny_input):
    """Llama 3.1 has them; without them the model computes with other positions."""
    factors = np.array([1.0, 2.0, 4.0, 8.0])
    path = write_gguf(tmp_path / "m.gguf", model, tensors={"rope_freqs.weight": factors})
    right = build("llama", vocab_size=len(TOKENS), head_dim=HEAD_DIM)
    right.model.rotary_emb.inv_freq /= torch.from_numpy(factors).float()
    found = load_model(path)
    assert torch.equal(logits(found.model, tiny_input()), logits(right, tiny_input()))
    assert (logits(found.model, tiny_input()) - logits(model, tiny_input())).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "rwkv7"}, "architecture 'rwkv7' is not read from GGUF; allowed: .*llama.*qwen3"),
        ({"keys": {"llama.rope.scaling.type": "yarn"}}, "rotary positions are scaled .*'yarn'"),
        ({"keys": {"llama.attention.key_length": 16}}, "attention heads are 16 wide, but .* makes them 8 wide"),
        ({"tensors": {"blk.0.attn_q.bias": np.ones(32)}}, "1 tensors would not be used, the first: blk.0.attn_q.bias"),
        ({"tensors": {"rope_freqs.weight": np.ones(3)}}, "rope_freqs.weight does not fit the rotary positions"),
        ({"keys": {"split.count": 3}}, "one of 3 parts of a model; join them"),
    ],
)  # fmt: skip
def test_what_the_reader_would_pass_over_is_refused(options, message, model, tmp_path):
    with pytest.raises(UnsupportedModelError, match=message):
        load_model(write_gguf(tmp_path / "m.gguf", model, **options))


@pytest.mark.parametrize("damaged", [0.0, -1.0, np.nan, np.inf])
def test_damaged_factors_of_rotary_frequencies_are_refused(damaged, model, tmp_path):
    factors = np.array([1.0, damaged, 4.0, 8.0])
    path = write_gguf(tmp_path / "m.gguf", model, tensors={"rope_freqs.weight": factors})
    with pytest.raises(InputError, match=r"rope_freqs.weight must be finite and above 0"):
        load_model(path)


def test_a_quantisation_that_cannot_be_dequantised_is_named(model, tmp_path, monkeypatch):
    from gguf import quants

    path = write_gguf(tmp_path / "m.gguf", model, quantisation="Q8_0")
    monkeypatch.delitem(quants._type_traits, gguf.GGMLQuantizationType.Q8_0)
    with pytest.raises(
        UnsupportedModelError, match=r"has the quantisation Q8_0, .* allowed: F32, F16, .*Q4_0"
    ):
        load_model(path)


@pytest.mark.parametrize("damage", ["cut off", "magic", "offset"])
def test_a_damaged_file_is_refused_before_any_work(damage, path, tmp_path):
    data = bytearray(path.read_bytes())
    if damage == "cut off":
        del data[-1000:]
    elif damage == "magic":
        data[:4] = b"GGML"
    else:  # the offset of the last tensor in the header
        place = data.index(b"blk.1.ffn_down.weight") + len(b"blk.1.ffn_down.weight") + 4 + 16 + 4
        data[place : place + 8] = (2**40).to_bytes(8, "little")
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(data)
    with pytest.raises(InputError, match=r"cut off|is not a GGUF file|ends at"):
        load_model(bad)


def test_a_layer_that_is_missing(model, tmp_path):
    import copy

    short = copy.deepcopy(model)
    del short.model.layers[1]
    with pytest.raises(InputError, match=r"9 parameters are not in the file, the first: model.layers.1"):
        load_model(write_gguf(tmp_path / "m.gguf", short))


def test_reading_needs_the_package_gguf_alone(path, monkeypatch):
    for package in ("llama_cpp", "numba"):
        monkeypatch.setitem(sys.modules, package, None)  # an import fails
    assert load_model(path).model_type == "llama"
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match=r"need the package gguf .*\[gguf\]"):
        load_model(path)


def test_a_folder_with_a_gguf_file_names_the_file(path):
    with pytest.raises(UnsupportedModelError, match=r"give the GGUF file itself: .*tiny\.gguf"):
        load_model(path.parent)
