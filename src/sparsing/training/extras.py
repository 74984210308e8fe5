"""The optional parts of a training run: start weights, L1 penalty, FATReLU and sparsity measurements.

The parts themselves are in `l1.py`, `fatrelu.py` and `sparsity_callback.py`. `RunExtras` builds the parts that a
configuration asks for, so that invalid values are rejected before training starts, and attaches them to the Trainer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from sparsing.errors import InputError
from sparsing.models.loading import load_model
from sparsing.text.corpus import load_corpus
from sparsing.training.config import TrainConfig
from sparsing.training.data import read_texts
from sparsing.training.fatrelu import FATReLU
from sparsing.training.l1 import L1Penalty, L1Schedule
from sparsing.training.sparsity_callback import SparsityCallback

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

AnyModel = TypeVar("AnyModel", bound="PreTrainedModel")


class RunExtras:
    """The optional parts of one run."""

    def __init__(self, config: TrainConfig):
        """
        Raises:
            InputError: if a part refuses its values, or [tracking] has no held-out text to measure on.
        """
        self.config, sparser = config, config.sparser
        self.l1 = self.fat = None
        if sparser is not None and sparser.l1_factors:
            self.l1 = L1Penalty(L1Schedule(factors=sparser.l1_factors, steps=sparser.l1_steps))
        if sparser is not None and sparser.fat_eps:
            self.fat = FATReLU(sparser.fat_eps)
        if config.tracking is not None and not config.data.heldout_source:
            raise InputError("[tracking] needs a held-out text to measure on; set data.heldout")

    def load_start(self, model: AnyModel) -> AnyModel:
        """Load the weights of the checkpoint `sparser.start` into `model`, if it is set.

        Returns: `model`.

        Raises:
            InputError: if there is no such checkpoint, or it has another shape.
        """
        if self.config.sparser is None or not self.config.sparser.start:
            return model
        start = self.config.sparser.start
        weights = load_model(start, dtype="float32", device="cpu").model.state_dict()
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise InputError(
                f"the weights in sparser.start = {start!r} do not fit [model] ({str(error).splitlines()[-1].strip()});"
                " give [model] the shape of the checkpoint"
            ) from None
        return model

    def attach(self, trainer: Trainer, tokenizer: PreTrainedTokenizerBase) -> None:
        """Attach the parts to `trainer`."""
        if self.l1 is not None:
            self.l1.attach_to(trainer)
        if self.fat is not None:
            trainer.add_callback(self.fat)
        if self.config.tracking is not None:
            self._make_sparsity_callback(tokenizer).attach(trainer)

    def _make_sparsity_callback(self, tokenizer: PreTrainedTokenizerBase) -> SparsityCallback:
        tracking, data = self.config.tracking, self.config.data
        assert tracking is not None, "attach() checks that there is a table [tracking]"
        texts = read_texts(data.heldout_source, split=data.heldout_split, column=data.column)
        corpus = load_corpus(
            (text for text, _ in texts),
            tokenizer,
            window=self.config.model.context,
            max_tokens=tracking.tokens,
            name=data.heldout_source,
        )
        return SparsityCallback(
            corpus,
            every=tracking.every or None,
            eps=tracking.eps,
            target_cett=tracking.target_cett,
            ppl_percent=tracking.ppl_percent or None,
        )
