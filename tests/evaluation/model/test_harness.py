"""The model that lm-eval drives: dense it equals lm-eval's own; sparse it counts each real token once."""

from __future__ import annotations

import pytest
import torch

from sparsing.errors import InputError, NonFiniteError
from sparsing.evaluation.model.counting import CountingMask
from sparsing.evaluation.model.harness import make_sparsing_lm
from sparsing.rules.thresholds import Thresholds
from sparsing.sites.tap import tapped

from ...helpers.measuring import loaded
from ...helpers.overflow import BAD, overflowing
from ...helpers.tiny import tiny_tokenizer
from ...helpers.tiny_experts import build_experts

PAIRS = [
    ("Once upon a time", " there was a little girl named Lily"),
    ("One day, Tom and his dog went to the big park to", " play"),
    ("The", " end"),
    ("She was very happy because her mother gave her a red ball and", " a book."),
    ("", "He said hello"),
]
PROMPTS = ["Once upon a time", "Tom and Sue went to the park. They", "One day, a big"]


@pytest.fixture
def lm(lm_eval, stories):
    model = make_sparsing_lm()(stories, batch_size=2, show_progress=False)
    yield model
    model.apply(None)


def score(lm) -> list:
    from lm_eval.api.instance import Instance

    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(PAIRS)]
    return lm.loglikelihood(requests)


def generate(lm, until=("\n",), tokens=12) -> list[str]:
    from lm_eval.api.instance import Instance

    kwargs = {"until": list(until), "max_gen_toks": tokens, "do_sample": False}
    requests = [Instance("generate_until", {}, (prompt, kwargs), i) for i, prompt in enumerate(PROMPTS)]
    return lm.generate_until(requests)


def test_dense_is_lm_evals_own_model(lm, stories):
    from lm_eval.models.huggingface import HFLM

    own = HFLM(pretrained=stories.model, tokenizer=stories.tokenizer, batch_size=2)
    assert score(lm) == score(own)
    assert generate(lm) == generate(own)
    assert lm.activities() is None


def test_a_text_that_overflows_is_named(lm_eval):
    """lm-eval would count the item as wrong, and greedy decoding would write a token."""
    from lm_eval.api.instance import Instance

    lm = make_sparsing_lm()(loaded(overflowing(torch.float32)), batch_size=2, show_progress=False)
    bad = f"ab{BAD}"
    scored = [Instance("loglikelihood", {}, (prompt, " c"), i) for i, prompt in enumerate(("abc", bad))]
    with pytest.raises(
        NonFiniteError, match=r"text . of 2: the input of down_proj of layer 1 .* in float32; try"
    ):
        lm.loglikelihood(scored)
    options = {"until": ["\n"], "max_gen_toks": 3, "do_sample": False}
    written = [Instance("generate_until", {}, (prompt, options), i) for i, prompt in enumerate(("abc", bad))]
    with pytest.raises(NonFiniteError, match=r"prompt . of 2 in a batch: the input of down_proj of layer 1"):
        lm.generate_until(written)


def test_a_tokenizer_without_special_tokens_is_refused(lm_eval, tiny_model):
    """lm-eval decodes the id None, which is a TypeError of the tokenizer after all items were built."""
    from transformers import PreTrainedTokenizerFast

    from sparsing.models.loading import LoadedModel

    plain = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer().backend_tokenizer)
    with pytest.raises(InputError, match=r"has neither a BOS nor an EOS token.*--tokenizer"):
        make_sparsing_lm()(LoadedModel.of(tiny_model("llama"), plain), batch_size=1)


def test_a_token_beyond_the_embedding_is_named(lm_eval, tiny_model):
    from sparsing.models.loading import LoadedModel

    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"word{i}" for i in range(40)])
    lm = make_sparsing_lm()(LoadedModel.of(tiny_model("llama"), tokenizer), batch_size=1)
    assert lm.tok_encode("letters")
    with pytest.raises(InputError, match="gives token 'word39' the id 143"):
        lm.tok_encode("word39")


def test_a_prompt_shared_by_options_is_encoded_once(lm, stories, monkeypatch):
    """The tokens are those of lm-eval's own model. A caller that changes its list does not change the cache."""
    from lm_eval.models.huggingface import HFLM

    own = HFLM(pretrained=stories.model, tokenizer=stories.tokenizer, batch_size=2)
    prompt, options = "Tom and Sue went to the park. They", [" ran", " sat down", " ate", " ran home"]
    wanted = [own._encode_pair(prompt, option) for option in options]
    encode, texts = stories.tokenizer.encode, []
    monkeypatch.setattr(
        stories.tokenizer, "encode", lambda text, **options: texts.append(text) or encode(text, **options)
    )
    assert [lm._encode_pair(prompt, option) for option in options] == wanted
    assert texts.count(prompt) == 1
    lm.tok_encode(prompt).append(0)
    assert lm.tok_encode(prompt) == wanted[0][0]
    assert lm.tok_encode(prompt, add_special_tokens=False) == wanted[0][0][1:]  # without BOS


def test_dense_again_after_sparse(lm, sparse_level):
    before = score(lm)
    lm.apply(sparse_level.thresholds)
    assert score(lm) != before
    lm.apply(None)
    assert score(lm) == before


def test_thresholds_at_zero_change_nothing(lm, stories):
    before = score(lm)
    lm.apply(Thresholds.from_line(",".join(["0"] * len(stories.sites))))
    assert score(lm) == before


def test_prefill_counts_every_scored_token_once(lm, stories, sparse_level):
    """Compared with one forward per text, over prompt and continuation without the last token."""
    lm.apply(sparse_level.thresholds)
    score(lm)
    prefill, decode = lm.activities()
    mask = CountingMask(stories.sites, sparse_level.thresholds)
    tokens, active = 0, torch.zeros(len(stories.sites), dtype=torch.int64)
    lm.apply(None)
    for context, continuation in PAIRS:
        if context:
            first, rest = lm._encode_pair(context, continuation)
        else:
            first, rest = [lm.prefix_token_id], lm.tok_encode(continuation, add_special_tokens=False)
        ids = torch.tensor([[*first, *rest][:-1]])
        with torch.no_grad(), tapped(stories.sites, mask.see, gate=mask.needs_gate):
            stories.model(ids)
        active += mask.take(tuple(ids.shape)).sum((1, 2))
        tokens += ids.numel()
    assert prefill.num_tokens == tokens
    wanted = (active / (tokens * stories.sites[0].d_ff)).tolist()
    assert prefill.layer_activation_ratio == pytest.approx(wanted, abs=2e-3)  # padding moves the last bits
    assert decode.num_tokens == 0


@pytest.mark.parametrize("until", [("\n",), ("the", "."), (" was",)])
def test_generation_counts_do_not_depend_on_the_batch(lm, sparse_level, until):
    seen = []
    for batch_size in (1, 3):
        lm.batch_size_per_gpu = batch_size
        lm.apply(sparse_level.thresholds)
        texts = generate(lm, until)
        prefill, decode = lm.activities()
        seen.append((texts, prefill, decode))
    (texts, alone, alone_decode), (batched_texts, batch, batch_decode) = seen
    assert texts == batched_texts
    assert (alone.num_tokens, alone_decode.num_tokens) == (batch.num_tokens, batch_decode.num_tokens)
    assert alone.activation_ratio == pytest.approx(batch.activation_ratio, abs=2e-3)
    assert alone_decode.activation_ratio == pytest.approx(batch_decode.activation_ratio, abs=5e-3)


def test_prefill_and_decode_tokens_by_hand(lm, sparse_level, stories):
    """Without a stop string, a prompt of n tokens and 12 new tokens count as n in prefill and 11 in decode."""
    lm.apply(sparse_level.thresholds)
    generate(lm, until=("no such text",), tokens=12)
    prefill, decode = lm.activities()
    assert prefill.num_tokens == sum(len(stories.tokenizer(prompt)["input_ids"]) for prompt in PROMPTS)
    assert decode.num_tokens == 11 * len(PROMPTS)


def test_a_trial_of_the_batch_size_is_not_counted(lm, sparse_level):
    lm.apply(sparse_level.thresholds)
    score(lm)
    wanted = lm.activities()[0].num_tokens
    lm.apply(sparse_level.thresholds)
    lm.batch_size_per_gpu, lm.max_batch_size = "auto", 2
    score(lm)
    assert lm.activities()[0].num_tokens == wanted


def test_an_option_longer_than_the_model_is_scored(lm, sparse_level, caplog):
    from lm_eval.api.instance import Instance

    option = " word" * 700
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate([("Once", option), *PAIRS])]
    scores = lm.loglikelihood(requests)
    assert len(scores) == 1 + len(PAIRS)
    assert -1e5 < scores[0][0] < 0
    assert "1 options are longer than 512 tokens" in caplog.text
    lm.apply(sparse_level.thresholds)
    lm.loglikelihood(requests[:1])
    assert lm.activities()[0].num_tokens == 512


def test_a_warning_says_how_many_prompts_are_cut(lm, caplog):
    from lm_eval.api.instance import Instance

    long, settings = "once upon " * 300, {"until": ["."], "max_gen_toks": 4, "do_sample": False}
    lm.loglikelihood([Instance("loglikelihood", {}, pair, i) for i, pair in enumerate([(long, "a"), *PAIRS])])
    assert f"1 of {len(PAIRS) + 1} prompts do not fit in 512 tokens" in caplog.text
    requests = [Instance("generate_until", {}, (text, settings), i) for i, text in enumerate([long, "Once"])]
    lm.generate_until(requests)
    assert "1 of 2 prompts do not fit in 512 tokens" in caplog.text


def test_several_sequences_a_prompt_are_refused(lm, sparse_level):
    lm.apply(sparse_level.thresholds)
    context = torch.tensor([lm.tok_encode("Once upon a time")])
    with pytest.raises(InputError, match="num_beams"):
        lm._model_generate(
            context, 12, ["\n"], attention_mask=torch.ones_like(context), num_beams=2, do_sample=False
        )


def test_model_args_of_the_command(lm_eval, stories_folder, tmp_path):
    """Thresholds as `lm_eval --model_args` passes them: a file, or a list of numbers."""
    (tmp_path / "t.txt").write_text("thresholds=0.1,0.1,0.1,0.1,0.1\n")
    from_file = make_sparsing_lm().create_from_arg_obj(
        {"pretrained": str(stories_folder), "thresholds": str(tmp_path / "t.txt")},
        {"batch_size": 2, "device": "cpu", "max_batch_size": None},
    )
    listed = make_sparsing_lm().create_from_arg_obj(
        {"pretrained": str(stories_folder), "thresholds": [0.1] * 5, "dtype": "auto"},
        {"batch_size": 2, "device": "cpu"},
    )
    assert score(from_file) == score(listed)
    assert 0 < from_file.activities()[0].activation_ratio < 1
    assert (
        from_file.get_model_info()["prefill_activation_ratio"] == from_file.activities()[0].activation_ratio
    )


def test_thresholds_for_another_model(lm_eval, stories):
    with pytest.raises(InputError, match="3 thresholds"):
        make_sparsing_lm()(stories, thresholds=[0.1, 0.1, 0.1])


def test_lm_evals_default_device_on_a_machine_without_gpu(lm_eval, stories_folder, monkeypatch):
    """lm-eval's command line passes `cuda:0` if the user gives no device."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    lm = make_sparsing_lm()(str(stories_folder), device="cuda:0", batch_size=1)
    assert lm.loaded.device == "cpu"


@pytest.mark.parametrize("model_type", ["glm4_moe", "llama4_text"])
def test_a_model_with_experts_is_scored_as_by_sparsify(lm_eval, model_type):
    """lm-eval's scores of a padded batch against the masked model on each text alone."""
    from lm_eval.api.instance import Instance

    model = loaded(build_experts(model_type, dtype=torch.float32))
    values = {}
    for site in model.sites:
        routed = site.kind == "expert"
        names = [f"{site.name}.{i}" for i in range(site.n_experts)] if routed else [site.name]
        values |= {name: 0.02 + 0.005 * i for i, name in enumerate(names)}
    thresholds = Thresholds(rule="cett", level=0.1, on="neuron_norm", values=values)
    lm = make_sparsing_lm()(model, thresholds=thresholds, batch_size=3, show_progress=False)
    pairs = [("one two", " three"), ("a", " b"), ("some longer text", " end")]
    scores = lm.loglikelihood([Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)])
    prefill, _ = lm.activities()
    lm.apply(None)
    active = 0
    for (context, text), (score, _) in zip(pairs, scores, strict=True):
        ids = model.tokenizer(context + text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        mask = CountingMask(model.sites, thresholds)
        with torch.no_grad(), tapped(model.sites, mask.see, gate=mask.needs_gate):
            logits = model.model(ids[:, :-1]).logits.log_softmax(-1)[0]
        wanted = logits.gather(-1, ids[0, 1:, None])[len(context) - 1 :].sum()
        assert score == pytest.approx(float(wanted), rel=1e-4)
        active = active + mask.take((1, len(ids[0]) - 1)).sum(-1)[:, 0]
    got = torch.tensor(prefill.layer_activation_ratio) * prefill.num_tokens
    widths = torch.tensor([site.width for site in model.sites])
    torch.testing.assert_close(got * widths, active.float(), atol=3, rtol=0)
