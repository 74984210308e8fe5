"""What a configuration may add to plain training: a start from a checkpoint, L1, FATReLU, sparsity watched on the way.

The parts themselves are in `l1.py`, `fatrelu.py` and `callback.py`; this file makes them before any work, so that
a bad number is told at once, and joins them to the Trainer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from sparsing.errors import InputError
from sparsing.training.config import TrainConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

Model = TypeVar("Model", bound="PreTrainedModel")


class RunExtras:
    """The extras of one run.

    Raises:
        InputError: a number that a part refuses, or a table that lacks what it needs.
    """

    def __init__(self, config: TrainConfig):
        from sparsing.training.fatrelu import FATReLU
        from sparsing.training.l1 import L1Penalty, L1Schedule

        self.config, sparser = config, config.sparser
        self.l1 = self.fat = None
        if sparser is not None and sparser.l1_factors:
            self.l1 = L1Penalty(L1Schedule(factors=sparser.l1_factors, steps=sparser.l1_steps))
        if sparser is not None and sparser.fat_eps:
            self.fat = FATReLU(sparser.fat_eps)
        if config.tracking is not None and not config.data.heldout_source:
            raise InputError("[tracking] needs a text to measure on; name one as data.heldout")

    def start(self, model: Model) -> Model:
        """`model` with the weights of the checkpoint to start from, where there is one.

        Raises:
            InputError: no such checkpoint, or one of another shape.
        """
        from sparsing.models.loading import load_model

        if self.config.sparser is None or not self.config.sparser.start:
            return model
        there = self.config.sparser.start
        weights = load_model(there, dtype="float32", device="cpu").model.state_dict()
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise InputError(
                f"the weights in sparser.start {there!r} do not fit [model] ({str(error).splitlines()[-1].strip()});"
                " give the shape that the checkpoint has"
            ) from None
        return model

    def attach(self, trainer: Trainer, tokenizer: PreTrainedTokenizerBase) -> None:
        """Join what the configuration asks for to `trainer`."""
        if self.l1 is not None:
            self.l1.attach_to(trainer)
        if self.fat is not None:
            trainer.add_callback(self.fat)
        if self.config.tracking is not None:
            self._watch(trainer, tokenizer)

    def _watch(self, trainer: Trainer, tokenizer: PreTrainedTokenizerBase) -> None:
        from sparsing.text.corpus import load_corpus
        from sparsing.training.data import read_texts
        from sparsing.training.sparsity_callback import SparsityCallback

        asked, data = self.config.tracking, self.config.data
        assert asked is not None
        texts = read_texts(data.heldout_source, split=data.heldout_split, column=data.column)
        corpus = load_corpus(
            (text for text, _ in texts),
            tokenizer,
            window=self.config.model.context,
            max_tokens=asked.tokens,
            name=data.heldout_source,
        )
        SparsityCallback(
            corpus,
            every=asked.every or None,
            eps=asked.eps,
            target_cett=asked.target_cett,
            ppl_percent=asked.ppl_percent or None,
        ).attach(trainer)
