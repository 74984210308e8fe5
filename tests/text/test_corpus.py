"""Windows over tokens: each token counts once, padding never, BOS by option, pieces as the whole."""

from __future__ import annotations

import itertools
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import sparsing.text.reading
from sparsing.demo import MODELS, heldout_text
from sparsing.errors import InputError
from sparsing.models.loading import load_model
from sparsing.text.corpus import Corpus, bos_id, load_corpus, split_holdout

from ..helpers.measuring import counted_places, random_text, source_text, text_corpus
from ..helpers.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
quick = settings(max_examples=150, deadline=None)


def lead_tokenizer() -> PreTrainedTokenizerFast:
    """The tiny tokenizer, putting `<s>` before each text as Llama's does."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    return tokenizer


@pytest.fixture(scope="module")
def byte_level() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 600 tokens with GPT-2's splitting, trained on source text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<eos>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator([source_text() + "\n\n\n\n \n \n" * 50], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def of(num_ids: int, *, window: int, stride: int | None = None, **options) -> Corpus:
    """A packed corpus of this many ids."""
    return text_corpus(num_ids, window=window, stride=stride, **options)


def once_each(*corpora: Corpus) -> bool:
    places = np.concatenate([counted_places(corpus) for corpus in corpora])
    return sorted(places.tolist()) == list(range(len(corpora[0].ids)))


@quick
@given(num_ids=st.integers(2, 200), room=st.integers(2, 40), data=st.data())
def test_every_token_counts_once_whatever_the_window_and_stride(num_ids, room, data):
    stride = data.draw(st.integers(1, room))
    corpus = of(num_ids, window=room, stride=stride)
    assert once_each(corpus)
    assert corpus.num_tokens == num_ids
    assert corpus.lengths.max() <= room
    seen = sum(int(batch.counted.sum()) for batch in corpus.batches(3))
    assert seen == num_ids


@quick
@given(num_ids=st.integers(2, 200), room=st.integers(2, 40), data=st.data())
def test_the_held_out_part_and_the_rest_hold_each_token_once(num_ids, room, data):
    corpus = of(num_ids, window=room, stride=data.draw(st.integers(1, room)))
    share = data.draw(st.floats(0.01, 0.9))
    if min(share, 1 - share) * num_ids < 2.51:  # too few for both parts, or nearly
        return
    kept, held = split_holdout(corpus, share)
    assert once_each(kept, held)
    border = held.starts.min()
    assert (kept.starts + kept.lengths <= border).all(), "no id of the held-out part is read before it"
    assert abs(held.num_tokens - share * num_ids) <= 1
    for part in (kept, held):
        assert (part.fresh < part.lengths).all(), "every window counts a token"
        assert part.width >= 2


def test_a_share_of_nothing_and_shares_that_are_refused():
    corpus = of(50, window=10)
    assert split_holdout(corpus, 0) == (corpus, None)
    for share in (-0.1, 0.95, 1):
        with pytest.raises(InputError, match=r"--holdout must be in \[0, 0.9\]"):
            split_holdout(corpus, share)
    with pytest.raises(InputError, match=r"3 tokens are too few for a .* part at --holdout 0.5"):
        split_holdout(of(3, window=10), 0.5)


def test_labels_are_the_counted_tokens_that_have_one_before_them():
    for bos, stride in itertools.product(("never", "always"), (None, 3)):
        corpus = of(53, window=10, stride=stride, bos=bos)
        for batch in corpus.batches(4):
            first = torch.zeros_like(batch.counted)
            first[:, 0] = True
            assert torch.equal(batch.labelled, batch.counted & ~first)
            assert not (batch.counted & ~batch.real).any()
    packed = of(53, window=10)
    assert sum(int(b.labelled.sum()) for b in packed.batches(1)) == 53 - packed.n_windows


def test_ids_of_a_window_are_those_of_the_text_and_place_names_them():
    corpus = of(100, window=16, stride=9, bos="always")
    for batch in corpus.batches(3):
        assert (batch.ids[:, 0] == 1).all()
        body = batch.real.clone()
        body[:, 0] = False
        assert np.array_equal(batch.ids[body].numpy(), corpus.ids[batch.place[body].numpy()])


def test_bos_counts_only_when_asked():
    plain, silent, counted = (
        of(60, window=16, bos=bos, count_bos=count)
        for bos, count in (("never", True), ("always", False), ("always", True))
    )
    assert plain.num_tokens == silent.num_tokens == 60
    assert counted.num_tokens == 60 + counted.n_windows
    assert plain.width == 16
    for corpus in (plain, silent, counted):
        batches = list(corpus.batches(2))
        assert sum(int(batch.counted.sum()) for batch in batches) == corpus.num_tokens
        assert sum(int(batch.counted[:, 0].sum()) for batch in batches) == (
            0 if corpus is silent else corpus.n_windows
        )
    labels = [sum(int(b.labelled.sum()) for b in c.batches(9)) for c in (silent, counted)]
    assert labels == [60, 60]


def test_bos_is_put_where_the_tokenizer_puts_it():
    assert bos_id(TOKENIZER) is None
    assert bos_id(TOKENIZER, "always") == 1
    assert bos_id(lead_tokenizer()) == 1
    assert bos_id(lead_tokenizer(), "never") is None
    without = tiny_tokenizer()
    without.bos_token = None
    assert bos_id(without) is None
    with pytest.raises(InputError, match="has no BOS token"):
        bos_id(without, "always")
    corpus = load_corpus(["abcdef" * 9], lead_tokenizer(), window=8)
    assert 1 not in corpus.ids
    assert corpus.lengths.max() == 7


def test_packed_documents_have_the_end_of_text_between_and_not_after():
    corpus = load_corpus(["ab", "cd", "e"], TOKENIZER, window=5)
    assert TOKENIZER.decode(corpus.ids) == "ab</s>cd</s>e"
    assert corpus.lengths.tolist() == [5, 2]


def test_documents_have_a_window_each_and_long_ones_several():
    corpus = load_corpus(["abc", "x", "defghij", "kl"], TOKENIZER, window=4, documents=True)
    windows = [corpus.ids[s : s + n] for s, n in zip(corpus.starts, corpus.lengths, strict=True)]
    assert [TOKENIZER.decode(window) for window in windows] == ["abc", "defg", "hij", "kl"]
    batch = next(corpus.batches(4))
    assert batch.ids.shape == (4, 4)
    assert batch.real.sum(-1).tolist() == corpus.lengths.tolist()


def test_documents_of_one_token_count_behind_bos_and_are_refused_without():
    texts = ["a", "b", "c"]
    corpus = load_corpus(texts, TOKENIZER, window=4, documents=True, bos="always")
    assert corpus.n_windows == 3
    assert sum(int(batch.labelled.sum()) for batch in corpus.batches(2)) == 3
    with pytest.raises(InputError, match=r"no document .* two tokens"):
        load_corpus(texts, TOKENIZER, window=4, documents=True)


@pytest.mark.parametrize("documents", [False, True])
def test_max_tokens_takes_the_first_ones(documents):
    whole, texts = random_text(100), [random_text(100)[i : i + 10] for i in range(0, 100, 10)]
    for source in ([whole], texts):
        part = load_corpus(source, TOKENIZER, window=8, max_tokens=37, documents=documents)
        full = load_corpus(source, TOKENIZER, window=8, documents=documents)
        assert np.array_equal(part.ids, full.ids[:37])
    with pytest.raises(InputError, match="--max-tokens must be at least 2, got 1"):
        text_corpus(50, max_tokens=1)


def test_max_tokens_stops_the_reading():
    def endless():
        while True:
            yield "some words"

    assert load_corpus(endless(), TOKENIZER, window=8, max_tokens=50).num_tokens == 50


@pytest.mark.parametrize("texts", [[], [""], ["", ""], ["a"]])
def test_a_text_of_less_than_two_tokens_is_refused(texts):
    with pytest.raises(InputError, match=r"gives [01] tokens; perplexity needs at least 2 tokens"):
        load_corpus(texts, TOKENIZER, window=8)


def test_windows_and_strides_that_do_not_fit():
    """The advice names the option that was given."""
    for window, bos in ((1, "never"), (2, "always")):
        with pytest.raises(InputError, match=rf"at least 2 tokens.*, got {window}; raise --window$"):
            load_corpus(["abcdefgh"], TOKENIZER, window=window, bos=bos)
    for stride, bos, most in ((0, "never", 8), (8, "always", 7)):
        with pytest.raises(
            InputError, match=rf"--stride must be in \[1, {most}\] for windows of 8 tokens, got {stride}"
        ):
            load_corpus(["abcdefgh"], TOKENIZER, window=8, stride=stride, bos=bos)


def test_a_stride_or_a_separator_with_documents_is_refused():
    """Documents have their own windows, so both were dropped in silence."""
    for options, name in (({"stride": 4}, "--stride"), ({"join": " "}, "--join")):
        with pytest.raises(InputError, match=f"{name} has no effect with --documents"):
            load_corpus(["abcdefgh"], TOKENIZER, window=8, documents=True, **options)


def test_the_source_is_named_as_it_was_given(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("some text")
    assert load_corpus(str(path), TOKENIZER, window=8).source == str(path)
    assert load_corpus(path, TOKENIZER, window=8).source == str(path)
    assert load_corpus(["some text"], TOKENIZER, window=8, name="mine").source == "mine"


def test_the_digest_tells_what_counts():
    corpus = of(60, window=16)
    same = of(60, window=16)
    others = [of(60, window=15), of(61, window=16), of(60, window=16, seed=1), of(60, window=16, stride=8)]
    others += [corpus.part(np.array([1, 0, 2, 3])), of(60, window=16, bos="always")]
    assert corpus.sha256() == same.sha256()
    assert len({corpus.sha256(), *(other.sha256() for other in others)}) == 1 + len(others)


def test_batches_begin_where_asked_and_a_part_keeps_its_order():
    corpus = of(100, window=10)
    assert [batch.windows.tolist() for batch in corpus.batches(4, begin=3)] == [[3, 4, 5, 6], [7, 8, 9]]
    part = corpus.part(np.array([7, 2]))
    batch = next(part.batches(5))
    assert batch.place[:, 0].tolist() == [70, 20]


TEXTS = {
    "code": lambda: source_text()[:9000],
    "blank lines": lambda: "".join(f"Line {i}.\n" + "\n" * (i % 5) for i in range(700)),
    "spaces": lambda: "".join(f"{' ' * (i % 9)}word{i}\t \n \n" for i in range(500)),
    "one line": lambda: "word, other-word 12 " * 400,
    "no space": lambda: random_text(6000).replace(" ", ""),
    "not latin": lambda: "\u00e9t\u00e9 \u6c34\u706b\U0001f600\n\n" * 500,
}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("piece", [1000, 1013])
@pytest.mark.parametrize("from_file", [False, True])
def test_pieces_tokenise_as_the_whole(kind, piece, from_file, byte_level, tmp_path, monkeypatch):
    text = TEXTS[kind]()
    source: str | list[str] = [text]
    if from_file:
        source = str(tmp_path / "a.txt")
        Path(source).write_text(text, encoding="utf-8")
    monkeypatch.setattr(sparsing.text.reading, "PIECE", piece)
    whole = byte_level(text, verbose=False)["input_ids"]
    assert len(text) > 4 * piece
    assert load_corpus(source, byte_level, window=64).ids.tolist() == whole


def test_pieces_of_packed_documents_tokenise_as_the_whole(byte_level, monkeypatch):
    texts = [source_text()[:5000], "\n\n", "", source_text()[5000:9000], "end"]
    monkeypatch.setattr(sparsing.text.reading, "PIECE", 800)
    ids = [byte_level(text, verbose=False)["input_ids"] for text in texts]
    eos = byte_level.eos_token_id
    joined = [token for part in ids for token in [*part, eos]][:-1]
    assert load_corpus(texts, byte_level, window=64).ids.tolist() == joined
    corpus = load_corpus(texts, byte_level, window=64, documents=True)
    assert corpus.ids.tolist() == [token for part in ids for token in part]


def test_pieces_of_a_llama_tokenizer_tokenise_as_the_whole(shared, monkeypatch):
    tokenizer = load_model(shared / "models" / "stories260K", device="cpu").tokenizer
    text = (shared / "text" / "tinystories_maxme1.txt").read_text(encoding="utf-8")[:20000]
    monkeypatch.setattr(sparsing.text.reading, "PIECE", 1500)
    whole = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    assert load_corpus([text], tokenizer, window=64).ids.tolist() == whole


@pytest.mark.skipif(
    not list(MODELS.glob("*/*/tokenizer.json")), reason="needs the demo models in the package"
)
def test_pieces_of_the_demo_tokenizer_tokenise_as_the_whole(monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(min(MODELS.glob("*/*/tokenizer.json")).parent)
    text = heldout_text()[:40000]
    monkeypatch.setattr(sparsing.text.reading, "PIECE", 1500)
    whole = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    assert load_corpus([text], tokenizer, window=64).ids.tolist() == whole


def test_a_tokenizer_without_offsets_reads_pieces_on_their_own(monkeypatch):
    class Slow:
        is_fast, eos_token_id, bos_token_id = False, None, None

        def __call__(self, text, **_):
            return {"input_ids": [ord(char) for char in text]}

    text = textwrap.dedent(source_text())[:3000]
    monkeypatch.setattr(sparsing.text.reading, "PIECE", 500)
    assert load_corpus([text], Slow(), window=64).ids.tolist() == [ord(char) for char in text]
