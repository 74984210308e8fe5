"""Measures PPL-1% of a built-in model, applies the thresholds and generates text with most neurons at zero.

python examples/measure_and_sparsify.py
"""

from sparsing import Subject, load_corpus, load_model, measure, sparsify, split_holdout
from sparsing.demo import checkpoints, heldout_text

loaded = load_model(checkpoints("relu")[-1], dtype="float32", device="cpu")
corpus = load_corpus([heldout_text()], loaded.tokenizer, window=256, max_tokens=8000)
corpus, heldout = split_holdout(corpus, 0.1)

result = measure(Subject(loaded, corpus, heldout=heldout), "cett", ppl_ratio=1.01)
print(f"{result.name}: {result.activation_ratio:.2%} of neurons active, CETT {result.level:.3f}")
print(f"held out: perplexity rises by {result.heldout.ppl_ratio - 1:.2%}")

prompt = loaded.tokenizer("Return the number of", return_tensors="pt")["input_ids"]
with sparsify(loaded.model, result.thresholds) as sparse:
    tokens = sparse.generate(input_ids=prompt, max_new_tokens=40, do_sample=False)
print(loaded.tokenizer.decode(tokens[0], skip_special_tokens=True))
