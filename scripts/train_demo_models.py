"""Train the two small models of `sparsing demo`, ReLU and SiLU, on the text of Python's standard library.

Both are Granite models with the constants of the paper (MiniCPM's muP, WSD schedule, AdamW) and use the
same tokenizer and see the same windows in the same order. Every checkpoint is a folder that loads by
itself.

    OMP_NUM_THREADS=1 python scripts/train_demo_models.py relu --output src/sparsing/demo/models
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GraniteConfig, GraniteForCausalLM, PreTrainedTokenizerFast

from sparsing.demo.text import documents


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Shape, schedule and constants of one run; the defaults made the models in the package."""

    d_model: int = 128
    n_layers: int = 4
    n_heads: int = 4
    n_kv_heads: int = 2
    vocab_size: int = 1024
    context: int = 512
    """Tokens of a window, in training and as `max_position_embeddings`."""
    dim_model_base: int = 64
    """Width at which the learning rate and the initial deviation of hidden matrices are unscaled."""
    init_std: float = 0.1
    scale_emb: float = 12.0
    scale_depth: float = 1.4
    lr: float = 0.01
    """Peak learning rate at `dim_model_base`; a hidden matrix gets it times `dim_model_base / d_model`."""
    weight_decay: float = 0.1
    batch: int = 4
    """Windows of a step."""
    steps: int = 5000
    warmup: float = 0.03
    """Share of the steps in which the rate rises linearly."""
    decay: float = 0.2
    """Share of the steps, at the end, in which it falls linearly to zero."""
    checkpoints: tuple[float, ...] = (0.05, 0.2, 0.8, 1.0)
    """Shares of the steps after which the model is saved."""
    seed: int = 1
    bf16: bool = True
    """Matrix products of the training steps in bfloat16 (weights, optimizer and judging stay float32)."""

    @property
    def width_scale(self) -> float:
        """`d_model / dim_model_base`, the m of muP."""
        return self.d_model / self.dim_model_base

    @property
    def tokens_per_step(self) -> int:
        return self.batch * self.context


def train_tokenizer(texts: Iterator[str], vocab_size: int, context: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE that puts `<bos>` before every text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def token_stream(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """Every text as `<bos> ... <eos>`, one after the other, shape `(tokens,)`, int64."""
    encoded = tokenizer.backend_tokenizer.encode_batch(texts)
    return torch.tensor([token for text in encoded for token in [*text.ids, tokenizer.eos_token_id]])


def batches(stream: torch.Tensor, recipe: Recipe) -> Iterator[torch.Tensor]:
    """Endless batches `(batch, context)`: every epoch cuts the stream at another offset and shuffles."""
    generator = torch.Generator().manual_seed(recipe.seed)
    context = recipe.context
    while True:
        offset = int(torch.randint(context, (1,), generator=generator))
        count = (len(stream) - offset) // context
        windows = stream[offset : offset + count * context].view(count, context)
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - recipe.batch + 1, recipe.batch):
            yield windows[order[start : start + recipe.batch]]


def build_model(activation: str, recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> GraniteForCausalLM:
    """A Granite model with MiniCPM's multipliers; hidden matrices start at `init_std / sqrt(width_scale)`."""
    config = GraniteConfig(
        vocab_size=recipe.vocab_size,
        hidden_size=recipe.d_model,
        intermediate_size=recipe.d_model * 5 // 2,
        num_hidden_layers=recipe.n_layers,
        num_attention_heads=recipe.n_heads,
        num_key_value_heads=recipe.n_kv_heads,
        hidden_act=activation,
        max_position_embeddings=recipe.context,
        initializer_range=recipe.init_std,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        embedding_multiplier=recipe.scale_emb,
        residual_multiplier=recipe.scale_depth / math.sqrt(recipe.n_layers),
        logits_scaling=recipe.width_scale,
        attention_multiplier=(recipe.d_model // recipe.n_heads) ** -0.5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    torch.manual_seed(recipe.seed)
    model = GraniteForCausalLM(config)
    model.set_attn_implementation("eager")  # in bfloat16 on a CPU faster than the fused kernel
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            scale = 1.0 if "embed" in name else recipe.width_scale**-0.5
            torch.nn.init.normal_(weight, std=recipe.init_std * scale)
    return model


def make_optimizer(model: GraniteForCausalLM, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with MiniCPM's groups: hidden matrices at `lr / width_scale`, norms without decay."""
    named = list(model.named_parameters())
    hidden = [weight for name, weight in named if weight.ndim == 2 and "embed" not in name]
    embedding = [weight for name, weight in named if "embed" in name]
    norms = [weight for _, weight in named if weight.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": hidden, "lr": recipe.lr / recipe.width_scale},
        {"params": embedding, "lr": recipe.lr},
        {"params": norms, "lr": recipe.lr, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=recipe.weight_decay, fused=True)


def wsd(step: int, recipe: Recipe) -> float:
    """Warm-up, stable, decay (MiniCPM): the factor on the peak rate in step `step`, counted from 0."""
    warmup = max(1, round(recipe.warmup * recipe.steps))
    decay = max(1, round(recipe.decay * recipe.steps))
    return min(1.0, (step + 1) / warmup, (recipe.steps - step) / decay)


@torch.no_grad()
def judge(model: GraniteForCausalLM, stream: torch.Tensor, windows: int) -> dict[str, Any]:
    """Mean loss (nats per token) on the first windows of `stream`; zeros and dead neurons per layer.

    A neuron is dead when `act(gate_proj(x))` exceeds 0.001 in size on less than 0.1% of the tokens.
    """
    context, layers = model.config.max_position_embeddings, model.model.layers
    count = min(windows, len(stream) // context)
    zeros, fired = torch.zeros(2, len(layers), model.config.intermediate_size, dtype=torch.float64)

    def counter(layer: int) -> Callable[[torch.nn.Module, Any, torch.Tensor], None]:
        def count_gate(_module: torch.nn.Module, _args: Any, gate: torch.Tensor) -> None:
            size = gate.abs().flatten(0, 1)  # (tokens, d_ff)
            zeros[layer] += (size == 0).sum(0)
            fired[layer] += (size > 1e-3).sum(0)

        return count_gate

    hooks = [layer.mlp.act_fn.register_forward_hook(counter(i)) for i, layer in enumerate(layers)]
    losses = []
    for batch in stream[: count * context].view(count, context).split(4):
        losses += [model(batch, labels=batch, use_cache=False).loss.item()] * len(batch)
    for hook in hooks:
        hook.remove()
    tokens = count * context
    return {
        "loss": sum(losses) / len(losses),
        "zeros": (zeros / tokens).mean(1).tolist(),
        "dead": (fired / tokens < 1e-3).double().mean(1).tolist(),
    }


def save_checkpoint(
    folder: Path, model: GraniteForCausalLM, tokenizer: PreTrainedTokenizerFast, state: dict[str, Any]
) -> None:
    """Weights in float16, configuration, tokenizer and `training_state.json`."""
    half = GraniteForCausalLM(model.config).to(torch.float16)
    half.load_state_dict(model.state_dict())
    half.config.dtype = torch.float16
    half.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "training_state.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")


def train(
    activation: str,
    recipe: Recipe,
    output: Path,
    tokenizer: PreTrainedTokenizerFast,
    train_texts: list[str],
    heldout_texts: list[str],
) -> list[dict[str, Any]]:
    """Run the recipe, save its checkpoints below `output / activation`, return what was logged."""
    stream, heldout = token_stream(tokenizer, train_texts), token_stream(tokenizer, heldout_texts)
    print(f"{activation}: {len(stream)} training tokens, {len(heldout)} held out", flush=True)
    model = build_model(activation, recipe, tokenizer)
    print(f"{activation}: {model.num_parameters()} parameters, {recipe}", flush=True)
    optimizer = make_optimizer(model, recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: wsd(step, recipe))
    saved_at = {round(share * recipe.steps) for share in recipe.checkpoints}
    log_every = max(1, recipe.steps // 40)
    log: list[dict[str, Any]] = []
    recent: list[float] = []
    started = time.perf_counter()
    for step, batch in zip(range(1, recipe.steps + 1), batches(stream, recipe), strict=False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.bf16):
            loss = model(batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        recent.append(loss.item())
        if step % log_every and step not in saved_at:
            continue
        tokens = step * recipe.tokens_per_step
        judged = judge(model, heldout, 10**9 if step in saved_at else 32)
        state = {"step": step, "tokens": tokens, "loss": sum(recent) / len(recent)}
        log.append(state | {"heldout": judged, "tok_per_sec": tokens / (time.perf_counter() - started)})
        print(json.dumps(log[-1]), flush=True)
        recent.clear()
        if step in saved_at:
            save_checkpoint(output / activation / f"tokens-{tokens / 1e6:.3g}M", model, tokenizer, state)
    return log


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a model of `sparsing demo`.")
    parser.add_argument("activation", choices=("relu", "silu"))
    parser.add_argument(
        "--output", type=Path, required=True, help="folder; checkpoints go to OUTPUT/ACTIVATION"
    )
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="default: %(default)s")
    args = parser.parse_args()
    recipe = Recipe(steps=args.steps, seed=args.seed)
    texts = list(documents("train"))
    tokenizer = train_tokenizer(iter(texts), recipe.vocab_size, recipe.context)
    train(args.activation, recipe, args.output, tokenizer, texts, list(documents("heldout")))


if __name__ == "__main__":
    main()
