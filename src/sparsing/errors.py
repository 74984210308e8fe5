"""The exceptions that `sparsing` raises on purpose, with one base class.

The command line catches `SparsityError` and prints its message, so every message states what is wrong (with the
value), what is allowed and what to do.
"""


class SparsityError(Exception):
    """Base class of all errors that the package raises on purpose."""


class InputError(SparsityError, ValueError):
    """An argument, a file or a text is invalid, and the caller can correct it."""


class NonFiniteError(InputError):
    """An activation or a loss of the model is NaN or infinite, mostly because the dtype is too narrow."""


class UnsupportedModelError(SparsityError, ValueError):
    """No feed-forward block of the model is found and proved, or the checkpoint has a format that is not loaded."""


class TargetError(SparsityError, ValueError):
    """No level of the rule reaches the requested quality."""


class WeakResultWarning(UserWarning):
    """A measurement is less certain than its figures look; `report/cautions.py` has the same in the saved result."""


class ProcessError(SparsityError):
    """One of several processes that share a command ended, stopped or failed; the message names it."""
