"""Text to token ids and back, with the tokenizer that llama.cpp reads from the GGUF file."""

from __future__ import annotations

from pathlib import Path

from sparsing.base.extras import install_command
from sparsing.errors import InputError


class Vocabulary:
    """The tokenizer of a GGUF file.

    Raises:
        InputError: If llama-cpp-python is not installed, or the file has no tokenizer that llama.cpp knows.
    """

    def __init__(self, path: str | Path):
        try:
            from llama_cpp import Llama  # pyright: ignore[reportMissingImports] - optional extra `engine`
        except ImportError as error:
            raise InputError(
                f"the tokenizer of a GGUF file needs llama-cpp-python ({error}); {install_command('engine')}"
            ) from error
        try:
            self._model = Llama(str(path), vocab_only=True, verbose=False)
        except ValueError as error:
            raise InputError(f"llama.cpp cannot read the tokenizer of {str(path)!r}: {error}") from error
        if self._model.n_vocab() < 1:
            raise InputError(f"{str(path)!r} has no tokenizer; give a file with one, or give token ids")

    def encode(self, text: str) -> list[int]:
        """Token ids, with the tokens that the model wants at the start, and special tokens in the text as such."""
        return self._model.tokenize(text.encode("utf-8"), add_bos=True, special=True)

    def decode(self, ids: list[int]) -> str:
        """The text of the ids; parts of characters become U+FFFD."""
        return self._model.detokenize(ids).decode("utf-8", "replace")

    @property
    def end_id(self) -> int:
        """The token at which a text ends; -1 if the model has none."""
        return self._model.token_eos()

    def close(self) -> None:
        """Free the memory of the tokenizer."""
        self._model.close()

    def __enter__(self) -> Vocabulary:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
