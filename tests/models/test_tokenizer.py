"""The tokenizer of a checkpoint: where it comes from, its special tokens, and ids beyond the embedding."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

import sparsing.models.tokenizer
from sparsing.errors import InputError
from sparsing.measuring.subject import Subject
from sparsing.models.loading import LoadedModel, load_model
from sparsing.models.tokenizer import check_token_ids
from sparsing.text.corpus import load_corpus

from ..helpers.measuring import source_text
from ..helpers.tiny import VOCAB, tiny_model, tiny_tokenizer


@pytest.fixture
def without_tokenizer(tiny_checkpoint, tmp_path) -> Path:
    """A checkpoint as a training run may leave it: configuration and weights."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint-100")
    for path in [*folder.glob("tokenizer*"), *folder.glob("special_tokens_map.json")]:
        path.unlink()
    return folder


def test_a_checkpoint_without_tokenizer_takes_the_given_one(without_tokenizer, tiny_checkpoint):
    with pytest.raises(InputError, match=r"no tokenizer in .*; give a folder or a hub name with --tokenizer"):
        load_model(without_tokenizer, device="cpu")
    for source in (tiny_checkpoint, tiny_checkpoint / "tokenizer.json", str(tiny_checkpoint)):
        loaded = load_model(without_tokenizer, device="cpu", tokenizer=source)
        assert loaded.tokenizer.encode("ab") == tiny_tokenizer().encode("ab")
        assert loaded.name == str(without_tokenizer)


def test_a_given_tokenizer_that_is_not_there(without_tokenizer, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no tokenizer in .*empty.*; give --tokenizer another folder"):
        load_model(without_tokenizer, device="cpu", tokenizer=tmp_path / "empty")
    with pytest.raises(InputError, match=r"no folder .*nowhere"):
        load_model(without_tokenizer, device="cpu", tokenizer=tmp_path / "nowhere")
    with pytest.raises(InputError, match="'owner/absent' cannot be loaded"):
        load_model(without_tokenizer, device="cpu", tokenizer="owner/absent")


@pytest.fixture(scope="module")
def sentencepiece_file(tmp_path_factory) -> Path:
    sentencepiece = pytest.importorskip("sentencepiece", reason="needs sentencepiece")
    pytest.importorskip("google.protobuf", reason="needs protobuf")
    folder = tmp_path_factory.mktemp("sentencepiece")
    (folder / "text.txt").write_text(source_text()[:20_000], encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=500,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
    )
    return folder / "tokenizer.model"


def test_a_tokenizer_model_alone_gives_the_ids_of_sentencepiece(without_tokenizer, sentencepiece_file):
    import sentencepiece

    shutil.copy(sentencepiece_file, without_tokenizer)
    tokenizer = load_model(without_tokenizer, device="cpu").tokenizer
    text = "def windows(text): return caf\u00e9  # two  spaces\n\u6c34"
    own = sentencepiece.SentencePieceProcessor(str(sentencepiece_file))
    assert tokenizer.encode(text, add_special_tokens=False) == own.encode(text)
    assert tokenizer.eos_token_id == own.eos_id()


@pytest.mark.parametrize(
    ("content", "missing"), [(b"\n\x0esentencepiece", "sentencepiece protobuf"), (b"IQ== 0\n", "tiktoken")]
)
def test_a_tokenizer_model_names_the_packages_that_read_it(without_tokenizer, monkeypatch, content, missing):
    """transformers asks for tiktoken in every case."""
    (without_tokenizer / "tokenizer.model").write_bytes(content)
    monkeypatch.setattr(sparsing.models.tokenizer, "_is_installed", lambda module: False)
    with pytest.raises(InputError, match=f"is a tokenizer.model alone, .*: pip install {missing}$"):
        load_model(without_tokenizer, device="cpu")


def test_a_lone_tokenizer_json_gets_the_end_of_text_token_of_the_configuration(without_tokenizer):
    tiny_tokenizer().backend_tokenizer.save(str(without_tokenizer / "tokenizer.json"))
    loaded = load_model(without_tokenizer, device="cpu")
    assert loaded.tokenizer.eos_token == "</s>"
    corpus = load_corpus(["ab", "c"], loaded.tokenizer, window=16)
    assert corpus.ids.tolist() == loaded.tokenizer.convert_tokens_to_ids(["a", "b", "</s>", "c"])


def test_documents_without_a_separator_are_reported(caplog):
    plain = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer().backend_tokenizer)
    load_corpus(["ab", "cd"], plain, window=16)
    assert "no end-of-text token, so nothing separates the 2 documents; choose a separator" in caplog.text
    caplog.clear()
    load_corpus(["ab", "cd"], plain, window=16, join="\n")
    load_corpus(["ab", "cd"], plain, window=16, documents=True)
    load_corpus(["ab"], plain, window=16)
    assert not caplog.records


def test_text_that_the_tokenizer_does_not_know_is_reported(caplog):
    """The perplexity of unknown tokens is low and says nothing about the text."""
    load_corpus(["a" * 95 + "\u6c34" * 5], tiny_tokenizer(), window=16)
    assert "the tokenizer does not know 5.0% of the tokens (<unk>)" in caplog.text


def test_an_id_beyond_the_embedding_is_named_before_the_model_runs():
    """PyTorch raises an IndexError without the token, and on a GPU an assertion that ends the process."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"word{i}" for i in range(40)])
    loaded = LoadedModel.of(tiny_model("llama"), tokenizer)
    check_token_ids(loaded.model, tokenizer, np.arange(VOCAB))
    fits = load_corpus(["only letters of the small vocabulary"], tokenizer, window=16)
    assert Subject(loaded, fits).curves.sites
    message = r"gives token 'word39' the id 143, but the model's embedding has 128 rows \(ids 0 to 127\)"
    with pytest.raises(InputError, match=message):
        Subject(loaded, load_corpus(["some word39 and word38"], tokenizer, window=16))


def test_a_bos_token_beyond_the_embedding_is_named():
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"word{i}" for i in range(40)])
    tokenizer.bos_token = "word39"
    corpus = load_corpus(["only letters"], tokenizer, window=16, bos="always")
    with pytest.raises(InputError, match="gives token 'word39' the id 143"):
        Subject(LoadedModel.of(tiny_model("llama"), tokenizer), corpus)


def test_special_tokens_of_the_configuration_are_not_needed(without_tokenizer, tiny_checkpoint):
    config = json.loads((without_tokenizer / "config.json").read_text())
    config["eos_token_id"] = None
    (without_tokenizer / "config.json").write_text(json.dumps(config))
    loaded = load_model(without_tokenizer, device="cpu", tokenizer=tiny_checkpoint)
    assert loaded.tokenizer.eos_token == "</s>"
