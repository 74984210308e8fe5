"""Checks of single values of a configuration: each error names the key, what was got and what is allowed."""

from __future__ import annotations

import math

from sparsing.errors import InputError


def at_least(key: str, got: float, least: float, why: str = "") -> None:
    """Refuse a number below `least`, infinity and NaN."""
    if not (math.isfinite(got) and got >= least):
        raise InputError(
            f"{key} must be {least:g} or more, got {got:g}; {why or 'set it in the configuration'}"
        )


def above(key: str, got: float, bound: float) -> None:
    """Refuse a number that is not above `bound`, infinity and NaN."""
    if not (math.isfinite(got) and got > bound):
        raise InputError(f"{key} must be above {bound:g}, got {got:g}; set it in the configuration")


def within(key: str, got: int, least: int, most: int) -> None:
    """Refuse a number outside `[least, most]`."""
    if not least <= got <= most:
        raise InputError(f"{key} must be in [{least}, {most}], got {got}; set it in the configuration")


def share(key: str, got: float) -> None:
    """Refuse what is not in [0, 1]."""
    if not 0 <= got <= 1:
        raise InputError(f"{key} must be in [0, 1], got {got:g}; 0.1 means a tenth")


def part(key: str, got: float) -> None:
    """Refuse what is not in [0, 1)."""
    if not 0 <= got < 1:
        raise InputError(f"{key} must be in [0, 1), got {got:g}; 0.9 means nine tenths")


def one_of(key: str, got: str, allowed: tuple[str, ...]) -> None:
    """Refuse a word that is not in the list."""
    if got not in allowed:
        raise InputError(
            f"{key} must be one of {', '.join(allowed)}, got {got!r}; set it in the configuration"
        )


def divides(key: str, part: int, whole_key: str, whole: int) -> None:
    """Refuse a `part` that does not go into `whole`."""
    if whole % part:
        nearest = max(1, round(whole / part)) * part
        raise InputError(
            f"{whole_key} = {whole} must be a multiple of {key} = {part}; the nearest is {nearest}"
        )
