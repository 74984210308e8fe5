"""Finds one neuron by its name in the `neurons.parquet` of a study. Needs neither torch nor the model.

A neuron is named `layer.neuron`, for example `3.12`, or as the column `name` of the file says, for example
`3.EXPERT.12` in a layer with routed experts.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from sparsing.base.registry import did_you_mean
from sparsing.errors import InputError

NEURONS_FILE = "neurons.parquet"


class Context(NamedTuple):
    """A token at which the neuron is large, in its text."""

    corpus: str
    value: float
    """`neuron_norm` with the sign of `h`."""
    before: str
    token: str
    after: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoundNeuron:
    """What a study knows about one neuron."""

    name: str
    frequency: dict[str, float]
    """Share of tokens on which the neuron is active, by corpus."""
    mean_norm: float
    max_norm: float
    promoted: list[str]
    """Tokens that its column of `down_proj` promotes, the most promoted first."""
    demoted: list[str]
    neighbours: list[tuple[str, float]]
    """Names of the neurons of the same layer whose firing correlates most, and the correlations."""
    contexts: list[Context]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return {**dataclasses.asdict(self), "contexts": [context._asdict() for context in self.contexts]}


def find_study(run: str | Path) -> Path:
    """The `neurons.parquet` in a run folder or below it.

    Raises:
        InputError: If there is no such file, or several.
    """
    run = Path(run).expanduser()
    files = [run] if run.name == NEURONS_FILE and run.is_file() else sorted(run.rglob(NEURONS_FILE))
    if len(files) == 1:
        return files[0]
    if not files:
        raise InputError(
            f"there is no study of neurons in {str(run)!r}; make one with: sparsing neurons MODEL --text FILE -o"
            f" {run}"
        )
    folders = ", ".join(str(file.parent) for file in files)
    raise InputError(f"{str(run)!r} holds {len(files)} studies of neurons; give one of them: {folders}")


def find_neuron(table: Path, name: str) -> FoundNeuron:
    """The neuron of this name.

    Args:
        table: The `neurons.parquet` of a study.

    Raises:
        InputError: If the file cannot be read, or has no neuron of this name.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(table) as file:
            names = [_names(file, group) for group in range(file.num_row_groups)]
            group = next((group for group, own in enumerate(names) if name in own), None)
            if group is None:
                raise InputError(_unknown(table, name, names))
            index = names[group].index(name)
            record = file.read_row_group(group).slice(index, 1).to_pylist()[0]
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"cannot read {str(table)!r}: {error}; run `sparsing neurons` again") from error
    return _found(name, record, names[group])


def _names(file: Any, group: int) -> list[str]:
    """Names of the neurons of a row group; files of earlier versions have no column of names."""
    if "name" in file.schema_arrow.names:
        return file.read_row_group(group, columns=["name"])["name"].to_pylist()
    columns = file.read_row_group(group, columns=["layer", "neuron"])
    return [
        f"{layer}.{neuron}"
        for layer, neuron in zip(columns["layer"].to_pylist(), columns["neuron"].to_pylist(), strict=True)
    ]


def _unknown(table: Path, name: str, names: list[list[str]]) -> str:
    every = [neuron for own in names for neuron in own]
    layer = name.partition(".")[0]
    mine = [neuron for neuron in every if neuron.partition(".")[0] == layer] or every
    hint = did_you_mean(name, mine[:100_000])
    where = f"layer {layer} has" if mine is not every else "it has"
    return f"there is no neuron {name!r} in {str(table)!r};{hint} {where} {mine[0]} to {mine[-1]}"


def _found(name: str, record: dict[str, Any], names: list[str]) -> FoundNeuron:
    prefix = "frequency: "
    return FoundNeuron(
        name=name,
        frequency={key.removeprefix(prefix): record[key] for key in record if key.startswith(prefix)},
        mean_norm=record["mean_norm"],
        max_norm=record["max_norm"],
        promoted=record["promoted"],
        demoted=record["demoted"],
        neighbours=[
            (names[index], correlation)
            for index, correlation in zip(record["neighbours"], record["neighbour_correlations"], strict=True)
            if index >= 0
        ],
        contexts=[Context(**entry) for entry in record["contexts"]],
    )
