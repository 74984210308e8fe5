"""What a training run is told: the tables of its TOML file as dataclasses, checked when they are made.

The defaults are the paper's (Sparsing Law, which follows MiniCPM); a preset of `shapes.py` fills the shape. Reading
a file is in `reading.py`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from sparsing.errors import InputError
from sparsing.training.value_checks import above, at_least, divides, one_of, part, share, within

BUILTIN = "builtin"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelTable:
    """[model]: a Granite decoder, which is MiniCPM by another name."""

    d_model: int
    """Width of the residual stream."""
    n_layers: int
    n_heads: int
    n_kv_heads: int = 0
    """Key-value heads; 0 means as many as `n_heads`."""
    d_ff: int = 0
    """Neurons of a feed-forward block; 0 means `2.5 * d_model`, as in the paper."""
    vocab_size: int = 1024
    context: int = 512
    """Tokens of a window, in training and as `max_position_embeddings`."""
    hidden_act: str = "relu"
    """Any activation that transformers knows."""
    parametrization: str = "mup"
    """`mup`, or `standard`: all multipliers 1, one learning rate, one initial deviation."""
    dim_model_base: int = 256
    """Width at which muP scales nothing; the width ratio is `d_model / dim_model_base`."""
    init_std: float = 0.1
    """Initial deviation at the base width; the usual value for `standard` is 0.02."""
    scale_emb: float = 12.0
    """muP: factor on the embeddings."""
    scale_depth: float = 1.4
    """muP: factor on each residual branch, over the root of `n_layers`."""

    def __post_init__(self) -> None:
        fill = {"n_kv_heads": self.n_kv_heads or self.n_heads, "d_ff": self.d_ff or self.d_model * 5 // 2}
        for name, value in fill.items():
            object.__setattr__(self, name, value)
        for name in ("d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff", "dim_model_base"):
            at_least(f"model.{name}", getattr(self, name), 1)
        at_least(
            "model.vocab_size", self.vocab_size, 258, "a byte-level vocabulary has 256 bytes and two marks"
        )
        at_least("model.context", self.context, 2)
        one_of("model.parametrization", self.parametrization, ("mup", "standard"))
        for name in ("init_std", "scale_emb", "scale_depth"):
            above("model." + name, getattr(self, name), 0)
        divides("model.n_heads", self.n_heads, "model.d_model", self.d_model)
        divides("model.n_kv_heads", self.n_kv_heads, "model.n_heads", self.n_heads)
        if self.d_model // self.n_heads % 2:
            raise InputError(
                f"model.n_heads {self.n_heads} gives heads of {self.d_model // self.n_heads}, rotary embedding"
                " needs an even size; choose another n_heads or d_model"
            )

    @property
    def width_ratio(self) -> float:
        """`d_model / dim_model_base`, the m of muP; 1 in the standard parametrization."""
        return self.d_model / self.dim_model_base if self.parametrization == "mup" else 1.0

    @property
    def num_parameters(self) -> int:
        """Weights of the blocks, the norms and the tied embedding."""
        kv = self.d_model * self.n_kv_heads // self.n_heads
        block = 2 * self.d_model * (self.d_model + kv) + 3 * self.d_model * self.d_ff + 2 * self.d_model
        return self.n_layers * block + (self.vocab_size + 1) * self.d_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataTable:
    """[data]: what is read; documents are packed into one stream and cut into windows."""

    text: str = "builtin"
    """Text file, folder, .jsonl, .parquet, dataset on the hub (`name` or `name:config`), or `builtin`: the
    standard library of the running interpreter."""
    split: str = "train"
    """Split of a dataset on the hub."""
    column: str = "text"
    """Column of jsonl, parquet and datasets."""
    heldout: str = ""
    """Source of the held-out loss; empty: none, or for `builtin` its documents that are not trained on."""
    heldout_split: str = "test"
    heldout_tokens: int = 65_536
    """Held-out tokens read at each checkpoint; 0 turns the held-out loss off."""

    def __post_init__(self) -> None:
        at_least("data.heldout_tokens", self.heldout_tokens, 0)

    @property
    def heldout_source(self) -> str:
        """Where held-out text is read; empty where there is none."""
        return self.heldout or (BUILTIN if self.text == BUILTIN else "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerTable:
    """[tokenizer]: one that is there, or a byte-level BPE trained on the text."""

    path: str = ""
    """Folder or hub name of a tokenizer; empty: one of `model.vocab_size` entries is trained."""
    sample_chars: int = 20_000_000
    """Characters of the text it is trained on at most."""

    def __post_init__(self) -> None:
        at_least("tokenizer.sample_chars", self.sample_chars, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingTable:
    """[training]: AdamW and the warm-up-stable-decay schedule."""

    tokens: int
    """Training tokens in all."""
    batch_tokens: int = 2048
    """Tokens of a step over all devices; a multiple of `model.context`."""
    micro_batch: int = 0
    """Windows that a device takes at once; 0: its whole share of a step."""
    lr: float = 0.01
    """Peak learning rate; a hidden matrix gets it over the width ratio."""
    warmup: float = 0.02
    """Share of the steps in which the rate rises from 0."""
    decay: float = 0.1
    """Share of the steps, at the end, in which it falls to 0."""
    decay_shape: str = "linear"
    """`linear`, `cosine` or `1-sqrt`."""
    weight_decay: float = 0.1
    """On matrices; norms have none."""
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    """Largest norm of the gradient."""
    precision: str = "auto"
    """Of matrix products: `bfloat16`, `float32`, or `auto` (bfloat16 on a GPU). Weights stay float32."""
    log_every: int = 10
    """Steps whose mean loss makes a point of the curve."""
    seed: int = 1
    """Of the weights and of the order of the windows."""

    def __post_init__(self) -> None:
        for name in ("tokens", "batch_tokens", "log_every"):
            at_least(f"training.{name}", getattr(self, name), 1)
        at_least("training.micro_batch", self.micro_batch, 0)
        within("training.seed", self.seed, 0, 2**32 - 1)
        for name in ("lr", "clip"):
            above(f"training.{name}", getattr(self, name), 0)
        at_least("training.weight_decay", self.weight_decay, 0)
        for name in ("warmup", "decay"):
            share(f"training.{name}", getattr(self, name))
        for name in ("beta1", "beta2"):
            part(f"training.{name}", getattr(self, name))
        if self.warmup + self.decay > 1:
            raise InputError(
                f"training.warmup {self.warmup:g} and training.decay {self.decay:g} are shares of one run and"
                " sum to more than 1; lower one of them"
            )
        one_of("training.decay_shape", self.decay_shape, ("linear", "cosine", "1-sqrt"))
        one_of("training.precision", self.precision, ("auto", "bfloat16", "float32"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointsTable:
    """[checkpoints]: what is kept along training; the end is always kept."""

    at: tuple[int, ...] = ()
    """Token counts; empty: `count` of them, evenly spaced in the logarithm."""
    count: int = 20
    """Kept checkpoints when `at` is empty."""
    first: int = 0
    """Tokens of the first of them; 0: a hundredth of the run."""
    resume_every: int = 0
    """Tokens between states that serve only to resume; 0: a fiftieth of the run."""

    def __post_init__(self) -> None:
        for value in self.at:
            at_least("checkpoints.at", value, 1)
        at_least("checkpoints.count", self.count, 1)
        at_least("checkpoints.first", self.first, 0)
        at_least("checkpoints.resume_every", self.resume_every, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackingTable:
    """[tracking]: sparsity watched while training, see `SparsityCallback`; without this table it is not."""

    tokens: int = 2048
    """Held-out tokens of each measurement, at most 32,768."""
    every: int = 0
    """Steps between two measurements; 0: as many as keep the cost within 2% of the time."""
    eps: float = 0.01
    """Of FAT, a cut of `|gate|`."""
    target_cett: float = 0.2
    ppl_percent: float = 1.0
    """The p of PPL-p%; 0 leaves it out."""

    def __post_init__(self) -> None:
        within("tracking.tokens", self.tokens, 2, 32_768)
        at_least("tracking.every", self.every, 0)
        at_least("tracking.eps", self.eps, 0)
        share("tracking.target_cett", self.target_cett)
        at_least("tracking.ppl_percent", self.ppl_percent, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparserTable:
    """[sparser]: ways to a sparser model; docs/tracking.md has their papers."""

    start: str = ""
    """Checkpoint of the same shape to start from; with another `model.hidden_act` that is ReLU-fication."""
    l1_factors: tuple[float, ...] = ()
    """Weight of the L1 term at the end of each stage; empty: no such term."""
    l1_steps: tuple[int, ...] = ()
    """Step at which each stage ends."""
    fat_eps: float = 0.0
    """FATReLU: `h` is zeroed where `|gate|` does not exceed this; 0: not at all."""

    def __post_init__(self) -> None:
        at_least("sparser.fat_eps", self.fat_eps, 0)
        if len(self.l1_factors) != len(self.l1_steps):
            raise InputError(
                f"sparser.l1_factors has {len(self.l1_factors)} numbers, sparser.l1_steps {len(self.l1_steps)};"
                " give both one per stage"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole run."""

    model: ModelTable
    data: DataTable = DataTable()
    tokenizer: TokenizerTable = TokenizerTable()
    training: TrainingTable
    checkpoints: CheckpointsTable = CheckpointsTable()
    tracking: TrackingTable | None = None
    sparser: SparserTable | None = None

    def __post_init__(self) -> None:
        divides("model.context", self.model.context, "training.batch_tokens", self.training.batch_tokens)
        tokens = self.training.tokens
        for name, values in (("at", self.checkpoints.at), ("first", (self.checkpoints.first,))):
            if values and max(values) > tokens:
                raise InputError(
                    f"checkpoints.{name} has {max(values):,} tokens, the run ends at training.tokens ="
                    f" {tokens:,}; lower one or raise the other"
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain tables as they stand in a TOML file."""
        return dataclasses.asdict(self)
