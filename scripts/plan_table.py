"""Prints the table of docs/measure.md: what PPL-1% of large models costs on data-centre GPUs, by the cost model.

python scripts/plan_table.py
"""

from __future__ import annotations

from transformers import LlamaConfig

from sparsing.base.progress import duration
from sparsing.errors import InputError
from sparsing.measuring.cost import usual_passes
from sparsing.models.outline import Outline, model_sizes
from sparsing.scale.machines import MACHINES
from sparsing.scale.plan import plan_measurement

TOKENS, WINDOW = 262_144, 2048
SHAPES = {
    "Llama 3 8B": (4096, 14_336, 32, 32),
    "70B": (8192, 28_672, 80, 64),
    "405B": (16_384, 53_248, 126, 128),
}
"""Name to d_model, d_ff, layers and attention heads; all have 8 key-value heads and 128,256 tokens."""
MACHINE_NAMES = ("a100", "h100", "8xh100", "8xh200", "64xh100")


def main() -> None:
    passes = usual_passes(searches=1, half_precision=True, holdout=1 / 9)
    print("| model | machine | copies x GPUs | time | limited by |\n|---|---|---|---:|---|")
    for name, (d_model, d_ff, n_layers, heads) in SHAPES.items():
        config = LlamaConfig(
            vocab_size=128_256,
            hidden_size=d_model,
            intermediate_size=d_ff,
            num_hidden_layers=n_layers,
            num_attention_heads=heads,
            num_key_value_heads=8,
        )
        outline = Outline(
            name=name, config=config, tokenizer=None, dtype="bfloat16", sizes=model_sizes(config)
        )
        for machine in MACHINE_NAMES:
            try:
                plan = plan_measurement(outline, TOKENS, WINDOW, passes, MACHINES[machine])
            except InputError:
                continue
            copies = f"{plan.processes} x {plan.devices_per_process}"
            print(f"| {name} | {machine} | {copies} | {duration(3600 * plan.hours)} | {plan.limit} |")


if __name__ == "__main__":
    main()
