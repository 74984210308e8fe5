"""Faster decoding with thresholds: the same text as the masked model, from fewer bytes, with and without a predictor.

python examples/decode.py
"""

from sparsing import Subject, load_corpus, load_model, measure, sparsify
from sparsing.decode import accelerate, calibrate_predictor, generate_timed, with_effect
from sparsing.demo import checkpoints, heldout_text

loaded = load_model(checkpoints("relu")[-1], dtype="float32", device="cpu")
corpus = load_corpus([heldout_text()], loaded.tokenizer, window=256, max_tokens=8000)
thresholds = measure(Subject(loaded, corpus), "cett", ppl_ratio=1.01).thresholds

prompt = loaded.tokenizer("Return the number of", return_tensors="pt")["input_ids"]
with sparsify(loaded.model, thresholds) as masked:
    masked_run = generate_timed(masked, prompt, max_new_tokens=40)
with accelerate(loaded.model, thresholds) as fast:
    run = generate_timed(fast.model, prompt, max_new_tokens=40)
    stats = fast.stats()
print(loaded.tokenizer.decode(run.ids[0], skip_special_tokens=True))
print(f"same text as the masked model: {run.ids.equal(masked_run.ids)}; {run.tok_per_sec:.0f} tokens/s")
print(f"{stats.activation_ratio:.1%} active, {stats.bytes_ratio:.0%} of dense bytes read per token")

predictor = with_effect(loaded, corpus, calibrate_predictor(loaded, corpus, thresholds, bits=4))
print(
    f"predictor: recall {predictor.mean_recall:.4f}, {predictor.mean_predicted_ratio:.1%} predicted", end=", "
)
print(f"perplexity {predictor.effect.ppl_change:+.3%}")
with accelerate(loaded.model, thresholds, predictor=predictor) as fast:
    generate_timed(fast.model, prompt, max_new_tokens=40)
    print(f"with the predictor, {fast.stats().bytes_ratio:.0%} of dense bytes are read per token")
