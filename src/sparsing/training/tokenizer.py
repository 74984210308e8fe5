"""The tokenizer of a run: an existing tokenizer, or a byte-level BPE that is trained on the text of the run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sparsing.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


def open_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """A tokenizer from a folder or from the hub.

    Raises:
        InputError: if there is no tokenizer, or it has no end-of-text token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path))
    except (OSError, ValueError) as error:
        raise InputError(
            f"tokenizer.path {str(path)!r} gives no tokenizer ({str(error).strip().splitlines()[0]});"
            " give a folder or a hub name, or leave the key out to train a tokenizer"
        ) from error
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"the tokenizer {str(path)!r} has no end-of-text token, which is needed to separate documents;"
            " choose another tokenizer"
        )
    return tokenizer


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, context: int, *, sample_chars: int | None = None
) -> PreTrainedTokenizerFast:
    """A new byte-level BPE tokenizer of `vocab_size` entries that puts `<bos>` before every text.

    Args:
        texts: Documents or pieces of documents.
        context: Context length of the model, which the tokenizer stores as `model_max_length`.
        sample_chars: Stop reading `texts` after this many characters; None reads all of them.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<bos>", "<eos>"],
        # all 256 bytes, so that no text has unknown characters
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_first(texts, sample_chars), trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=context,
        clean_up_tokenization_spaces=False,  # decoding gives the exact text back
    )


def _first(texts: Iterable[str], characters: int | None) -> Iterator[str]:
    """The texts up to the one in which the number of characters is reached, which is given whole."""
    total = 0
    for text in texts:
        if characters is not None and total >= characters:
            return
        total += len(text)
        yield text
