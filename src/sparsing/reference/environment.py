"""The environment variables of the reference's evaluation. No other module of the package reads them.

    mode=sparse thresholds=t_0,t_1,... task_data=DIR limit=N batch_size=N max_gen_toks=N allow_code_execution=1

`mode` and `thresholds` are those of the reference; the others are additions of this package. An empty variable counts
as absent.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

from sparsing.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sparsing.rules.thresholds import Thresholds


def environment_thresholds() -> Thresholds | None:
    """The thresholds that the environment asks for; None unless `mode=sparse`.

    Raises:
        InputError: if `mode` is `sparse` and `thresholds` is missing or not a list of numbers.
    """
    from sparsing.rules.thresholds import Thresholds

    if os.environ.get("mode") != "sparse":
        return None
    line = os.environ.get("thresholds")
    if not line:
        raise InputError("mode=sparse but no thresholds in the environment; export thresholds=t_0,t_1,...")
    return Thresholds.from_line(line)


def apply_environment(model: PreTrainedModel) -> None:
    """Apply the thresholds of the environment to a model for good, as the reference does when it loads a model.

    Raises:
        InputError: as `environment_thresholds`, or if the thresholds are for another number of layers.
    """
    from sparsing.rules.mask import apply

    thresholds = environment_thresholds()
    if thresholds is not None:
        apply(model, thresholds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationEnvironment:
    """The settings of `eval_entrance.sh` that have no argument."""

    task_data: Path | None
    """Folder with the items of the benchmarks; None lets lm-eval download them."""
    limit: int | None
    """Items of each part; None for all."""
    batch_size: str | None
    """Sequences per batch, `auto` or `auto:N`; None chooses by the device."""
    max_gen_toks: int | None
    """Upper limit on the tokens generated for an item; None keeps the number of the task."""
    allow_code_execution: bool

    @classmethod
    def read(cls) -> EvaluationEnvironment:
        """The settings as the environment has them now.

        Raises:
            InputError: if a number is not a whole number.
        """
        folder = os.environ.get("task_data")
        return cls(
            task_data=Path(folder) if folder else None,
            limit=_whole_number("limit"),
            batch_size=os.environ.get("batch_size"),
            max_gen_toks=_whole_number("max_gen_toks"),
            allow_code_execution=os.environ.get("allow_code_execution") == "1",
        )


def _whole_number(name: str) -> int | None:
    value = os.environ.get(name)
    if value and not value.isdigit():
        raise InputError(f"{name}={value!r} in the environment is no whole number; set a number or unset it")
    return int(value) if value else None
