"""The tables of `Savings`: the weights that a token reads under a rule, by groups of neurons and for several tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparsing.measuring.savings import GROUP_SIZES, UNION_TOKENS

if TYPE_CHECKING:
    from sparsing.measuring.savings import Savings
    from sparsing.report.measurement_tables import Rows


def weights(savings: Savings) -> Rows:
    """Active parameters and bytes per token: dense, with the score computed first, and with the set known before."""
    header = ["weights per token", "parameters", "bytes", "bytes, dense / sparse"]
    rows = [["dense", f"{savings.dense_parameters:,}", _megabytes(savings.dense_bytes), "1.00"]]
    for label, known in (("score computed first", False), ("active neurons known", True)):
        read = savings.active_bytes(known=known)
        parameters = f"{savings.active_parameters(known=known):,.0f}"
        rows.append([label, parameters, _megabytes(read), f"{savings.dense_bytes / read:.2f}"])
    return header, rows


def groups(savings: Savings) -> Rows:
    """Neurons and bytes that are read if weights are read in groups of neurons; the active neurons are known."""
    header = ["neurons per group", "read", "read, sorted", "bytes per token", "bytes per token, sorted"]
    rows = [
        [
            str(size),
            f"{as_they_lie.mean():.1%}",
            f"{by_frequency.mean():.1%}",
            _megabytes(savings.bytes_read(as_they_lie, known=True)),
            _megabytes(savings.bytes_read(by_frequency, known=True)),
        ]
        for size, as_they_lie, by_frequency in zip(
            GROUP_SIZES, savings.group_ratio.T, savings.sorted_group_ratio.T, strict=True
        )
    ]
    return header, rows


def unions(savings: Savings) -> Rows:
    """Neurons that several consecutive tokens read together, as speculative decoding does."""
    header = ["consecutive tokens", "neurons active at one of them", "bytes read together"]
    rows = [
        [str(tokens), f"{ratio.mean():.1%}", _megabytes(savings.bytes_read(ratio, known=True))]
        for tokens, ratio in zip(UNION_TOKENS, savings.union_ratio.T, strict=True)
    ]
    return header, rows


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.2f} MB"
