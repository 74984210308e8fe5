"""The configuration of a training run: one dataclass per TOML table, validated on construction.

`TrainConfig` is the whole configuration and holds one instance of each table. The default values are those of the
paper (Sparsing Law, arXiv 2411.02335, which follows MiniCPM). `config_file.py` makes a `TrainConfig` from a TOML file,
a preset of `sparsing.models.paper_shapes` and the `--set` options.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

from sparsing.errors import InputError
from sparsing.training.value_checks import (
    Bounds,
    DecayRate,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    check_divides,
    check_fields,
)

BUILTIN = "builtin"
"""Name of the text source that is the standard library of the running interpreter."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfigTable:
    """Base of the tables. The values that a field allows stand in its type; other values raise `InputError`."""

    table: ClassVar[str]
    """Name of the table in the TOML file."""

    def __post_init__(self) -> None:
        check_fields(self, self.table)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelTable(ConfigTable):
    """[model]: the shape of a Granite decoder, which has the architecture of MiniCPM; with experts, of a GraniteMoe."""

    table = "model"

    d_model: PositiveInt
    """Width of the residual stream."""
    n_layers: PositiveInt
    n_heads: PositiveInt
    n_kv_heads: PositiveInt = 0
    """Key-value heads; 0 means as many as `n_heads`."""
    d_ff: PositiveInt = 0
    """Neurons of a feed-forward block, or of each expert; 0 means `2.5 * d_model`, as in the paper."""
    n_experts: NonNegativeInt = 0
    """Routed experts of each layer; 0 means an ordinary feed-forward block."""
    top_k: PositiveInt = 2
    """Experts that each token is routed to; has no effect without experts."""
    router_loss: Annotated[float, Bounds(0)] = 0.01
    """Factor of the loss that spreads the tokens over the experts, in training only; no effect without experts."""
    vocab_size: Annotated[
        int, Bounds(258, hint="a byte-level vocabulary has 256 bytes and two special tokens")
    ] = 1024
    context: Annotated[int, Bounds(2)] = 512
    """Tokens per window, in training and as `max_position_embeddings`."""
    hidden_act: str = "relu"
    """Any activation function that transformers knows by name."""
    parametrization: Literal["mup", "standard"] = "mup"
    """`standard` sets all multipliers to 1 and uses one learning rate and one initial standard deviation."""
    dim_model_base: PositiveInt = 256
    """Width at which muP changes nothing; the width ratio is `d_model / dim_model_base`."""
    init_std: PositiveFloat = 0.1
    """Initial standard deviation at the base width; the usual value for `standard` is 0.02."""
    scale_emb: PositiveFloat = 12.0
    """muP: factor on the embeddings."""
    scale_depth: PositiveFloat = 1.4
    """muP: factor on each residual branch, divided by the square root of `n_layers`."""

    def __post_init__(self) -> None:
        # a frozen dataclass has no other way to fill in a default that depends on another field
        object.__setattr__(self, "n_kv_heads", self.n_kv_heads or self.n_heads)
        object.__setattr__(self, "d_ff", self.d_ff or self.d_model * 5 // 2)
        super().__post_init__()
        check_divides("model.n_heads", self.n_heads, "model.d_model", self.d_model)
        check_divides("model.n_kv_heads", self.n_kv_heads, "model.n_heads", self.n_heads)
        if self.n_experts and self.top_k > self.n_experts:
            raise InputError(
                f"model.top_k = {self.top_k} is more than the {self.n_experts} experts of model.n_experts; a token can"
                " be routed to each expert once"
            )
        if self.d_model // self.n_heads % 2:
            raise InputError(
                f"model.n_heads = {self.n_heads} gives heads of size {self.d_model // self.n_heads}, but rotary"
                " embedding needs an even size; choose another n_heads or d_model"
            )

    @property
    def width_ratio(self) -> float:
        """`d_model / dim_model_base`, the m of muP; 1 in the standard parametrization."""
        return self.d_model / self.dim_model_base if self.parametrization == "mup" else 1.0

    @property
    def num_parameters(self) -> int:
        """Parameters of the blocks, the norms and the embedding, which is also the head. Every expert counts."""
        ffn = 3 * self.d_model * self.d_ff * max(self.n_experts, 1) + self.n_experts * self.d_model
        kv = self.d_model * self.n_kv_heads // self.n_heads
        block = 2 * self.d_model * (self.d_model + kv) + ffn + 2 * self.d_model
        return self.n_layers * block + (self.vocab_size + 1) * self.d_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataTable(ConfigTable):
    """[data]: the sources of training and held-out text."""

    table = "data"

    text: str = BUILTIN
    """Text file, folder, .jsonl, .parquet, dataset on the hub (`name` or `name:config`), or `builtin`: the
    standard library of the running interpreter."""
    split: str = "train"
    """Split of a dataset on the hub."""
    column: str = "text"
    """Text column of .jsonl and .parquet files and of datasets."""
    heldout: str = ""
    """Source of the held-out text. Empty means no held-out loss, or, if `text` is `builtin`, those of its documents
    that are not trained on."""
    heldout_split: str = "test"
    heldout_tokens: NonNegativeInt = 65_536
    """Held-out tokens evaluated at each kept checkpoint; 0 turns the held-out loss off."""

    @property
    def heldout_source(self) -> str:
        """Source of the held-out text; empty if there is none."""
        return self.heldout or (BUILTIN if self.text == BUILTIN else "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerTable(ConfigTable):
    """[tokenizer]: an existing tokenizer, or a byte-level BPE that is trained on the training text."""

    table = "tokenizer"

    path: str = ""
    """Folder or hub name of a tokenizer; empty: a tokenizer of `model.vocab_size` entries is trained."""
    sample_chars: PositiveInt = 20_000_000
    """Largest number of characters to train the tokenizer on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingTable(ConfigTable):
    """[training]: AdamW and the warm-up-stable-decay schedule of the learning rate."""

    table = "training"

    tokens: PositiveInt
    """Training tokens in total."""
    batch_tokens: PositiveInt = 2048
    """Tokens per optimizer step over all devices; a multiple of `model.context`."""
    micro_batch: NonNegativeInt = 0
    """Windows per forward pass on one device; 0: all windows that the device has in a step."""
    lr: PositiveFloat = 0.01
    """Peak learning rate; hidden matrices get it divided by the width ratio."""
    warmup: Fraction = 0.02
    """Fraction of the steps in which the learning rate rises from 0."""
    decay: Fraction = 0.1
    """Fraction of the steps, at the end, in which the learning rate falls to 0."""
    decay_shape: Literal["linear", "cosine", "1-sqrt"] = "linear"
    weight_decay: NonNegativeFloat = 0.1
    """Applied to matrices, not to norms."""
    beta1: DecayRate = 0.9
    beta2: DecayRate = 0.95
    clip: PositiveFloat = 1.0
    """Largest norm of the gradient; larger gradients are scaled down to it."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """Dtype of matrix products; `auto` is bfloat16 on a GPU and float32 on a CPU. Weights stay float32."""
    log_every: PositiveInt = 10
    """Steps whose mean loss makes a point of the loss curve."""
    seed: Annotated[int, Bounds(0, 2**32 - 1)] = 1
    """Decides the initial weights and the order of the windows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup + self.decay > 1:
            raise InputError(
                f"training.warmup {self.warmup:g} and training.decay {self.decay:g} are fractions of the same run"
                " and sum to more than 1; lower one of them"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointsTable(ConfigTable):
    """[checkpoints]: which states of the model are kept. The last state always is."""

    table = "checkpoints"

    at: Annotated[tuple[int, ...], Bounds(1)] = ()
    """Token counts; empty: `count` token counts that are evenly spaced in the logarithm."""
    count: Annotated[int, Bounds(1, 100_000, hint="each checkpoint is a copy of the model")] = 20
    """Number of kept checkpoints if `at` is empty."""
    first: NonNegativeInt = 0
    """Token count of the first checkpoint if `at` is empty; 0: a hundredth of the run."""
    resume_every: NonNegativeInt = 0
    """Tokens between temporary checkpoints that serve only to resume; 0: a fiftieth of the run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackingTable(ConfigTable):
    """[tracking]: measure sparsity during training with `SparsityCallback`. Without this table nothing is measured."""

    table = "tracking"

    tokens: Annotated[int, Bounds(2, 32_768)] = 2048
    """Largest number of held-out tokens per measurement."""
    every: NonNegativeInt = 0
    """Steps between measurements; 0: the smallest interval that costs at most 2% of the training time."""
    eps: NonNegativeFloat = 0.01
    """Threshold of the FAT rule on `|gate|`."""
    target_cett: Fraction = 0.2
    ppl_percent: NonNegativeFloat = 1.0
    """The p of PPL-p%; 0 leaves PPL-p% out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparserTable(ConfigTable):
    """[sparser]: methods that train a sparser model; docs/tracking.md names their papers."""

    table = "sparser"

    start: str = ""
    """Checkpoint of the same shape whose weights training starts from. Together with another `model.hidden_act`
    this is ReLU-fication."""
    l1_factors: tuple[float, ...] = ()
    """Factor of the L1 penalty at the end of each stage; empty: no penalty."""
    l1_steps: tuple[int, ...] = ()
    """Step at which each stage of the L1 penalty ends."""
    fat_eps: NonNegativeFloat = 0.0
    """FATReLU: set `h` to zero where `|gate|` is not above this value; 0: off."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.l1_factors) != len(self.l1_steps):
            raise InputError(
                f"sparser.l1_factors has {len(self.l1_factors)} numbers and sparser.l1_steps has"
                f" {len(self.l1_steps)}; give one number per stage in both"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The configuration of a whole run."""

    model: ModelTable
    data: DataTable = DataTable()
    tokenizer: TokenizerTable = TokenizerTable()
    training: TrainingTable
    checkpoints: CheckpointsTable = CheckpointsTable()
    tracking: TrackingTable | None = None
    sparser: SparserTable | None = None

    def __post_init__(self) -> None:
        check_divides(
            "model.context", self.model.context, "training.batch_tokens", self.training.batch_tokens
        )
        tokens, checkpoints = self.training.tokens, self.checkpoints
        for name, last in (("at", max(checkpoints.at, default=0)), ("first", checkpoints.first)):
            if last > tokens:
                raise InputError(
                    f"checkpoints.{name} has {last:,} tokens, but the run ends at training.tokens = {tokens:,};"
                    " lower the first or raise the second"
                )

    def to_dict(self) -> dict[str, Any]:
        """The tables as plain dictionaries, as in a TOML file."""
        return dataclasses.asdict(self)
