"""Errors a caller can catch; every one says what was got, what is allowed and what to do next."""


class SparsityError(Exception):
    """Base class of the errors that this package raises on purpose."""


class InputError(SparsityError, ValueError):
    """An argument, a file or a text that the caller can correct."""


class UnsupportedModelError(SparsityError, ValueError):
    """The architecture has no family file, or the checkpoint is of a kind that is not loaded."""


class TargetError(SparsityError, ValueError):
    """A wanted quality level that no level of the rule reaches."""
