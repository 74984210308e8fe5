"""Rows of `datasets` datasets: folders that `save_to_disk` has written, and datasets of the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparsing.base.registry import did_you_mean
from sparsing.errors import InputError
from sparsing.text.folders import DEFAULT_SPLIT, FILE_SUFFIXES

_ONE = ("state.json", "dataset_info.json")
"""Files of a folder in which `Dataset.save_to_disk` wrote."""
_SEVERAL = "dataset_dict.json"
"""File of a folder in which `DatasetDict.save_to_disk` wrote: one folder per split."""
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(:[^/\\]+)?")
"""`dataset`, `owner/dataset`, and both with `:config`."""


def is_saved_dataset(folder: Path) -> bool:
    """Whether `save_to_disk` of the package `datasets` has written this folder."""
    return (folder / _SEVERAL).is_file() or all((folder / name).is_file() for name in _ONE)


def has_splits(folder: Path) -> bool:
    """Whether a folder of `save_to_disk` holds several splits by name."""
    return (folder / _SEVERAL).is_file()


def saved_dataset_rows(folder: Path, *, split: str | None, column: str) -> Iterator[Any]:
    """The rows of a folder of `save_to_disk`.

    Args:
        split: Name of a split. It has no effect on a folder that holds a single dataset.

    Raises:
        InputError: If the folder is incomplete, has no such split, or its rows have no such column.
    """
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # missing files, broken JSON, broken arrow files
        raise InputError(
            f"the dataset in {str(folder)!r} cannot be opened ({type(error).__name__}: {error}); save it again with"
            " save_to_disk"
        ) from error
    if isinstance(saved, datasets.DatasetDict):
        names = [str(name) for name in saved]
        wanted = split or (names[0] if len(names) == 1 else DEFAULT_SPLIT)
        if wanted not in saved:
            raise InputError(
                f"the dataset in {str(folder)!r} has no split {wanted!r}; give one of {', '.join(names)} with --split"
            )
        saved = saved[wanted]
    if column not in saved.column_names:
        raise InputError(
            f"the dataset in {str(folder)!r} has no column {column!r}; give one of {saved.column_names} with --column"
        )
    return iter(saved.select_columns([column]))


def check_hub_name(name: str) -> None:
    """Checks that a text that is neither a file nor a folder may be a dataset of the hub.

    Raises:
        InputError: If it looks like a path, for example because it ends with `.txt`. The hub is not asked, since its
            client repeats a failed request for a long time.
    """
    if _HUB_NAME.fullmatch(name) and Path(name.partition(":")[0]).suffix.lower() not in FILE_SUFFIXES:
        return
    path = Path(name).expanduser()
    shown = name[:200]  # a whole text may have been given by mistake
    try:
        beside = [file.name for file in path.parent.iterdir()]
    except OSError:
        beside = []
    hint = did_you_mean(path.name[:200], beside)
    raise InputError(
        f"{shown!r} is no file or folder here, and no name of a dataset (owner/name or owner/name:config).{hint}"
        " Check the path"
    )


def hub_dataset_rows(name: str, *, split: str | None) -> Iterator[Any]:
    """The rows of a dataset of the hub, streamed.

    Args:
        name: `owner/dataset`, or `owner/dataset:config`.

    Raises:
        InputError: If the dataset cannot be opened.
    """
    import datasets

    repo, _, config = name.partition(":")
    try:
        rows = datasets.load_dataset(repo, config or None, split=split or DEFAULT_SPLIT, streaming=True)
    except Exception as error:  # datasets raises errors of many libraries: network, parsing, missing files
        raise InputError(
            # the name may be a whole text that was given by mistake, so the message shows only its beginning
            f"{name[:200]!r} is no file or folder here, and no dataset that can be opened"
            f" ({type(error).__name__}: {str(error)[:200]}); check the path, or give name:config and --split"
        ) from error
    return iter(rows)
