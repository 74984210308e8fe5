"""The checkpoints of a training run, measured afterwards as Sparsing Law does (arXiv 2411.02335).

ONE CETT is found on the last five checkpoints jointly, where the mean of their perplexity ratios meets the
target, and is used for all of them, so that their ratios can be compared along training. Every pass is kept
in a journal until the end: a run that was cut off goes on with the checkpoint, and the window, it was at. One
model is in memory at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sparsing.base.progress import Progress
from sparsing.base.results import write_text
from sparsing.errors import InputError
from sparsing.measuring._measure import measure
from sparsing.measuring.joint_search import search_jointly
from sparsing.measuring.measurement import Measurement
from sparsing.measuring.run_folder import check_writable, open_journal
from sparsing.measuring.subject import Subject
from sparsing.models.checkpoint import training_state
from sparsing.models.loading import LoadedModel, load_model
from sparsing.rules import Rule, make_rule
from sparsing.text.corpus import Corpus
from sparsing.training.track_result import Track, point_of

LAST = 5
"""Checkpoints, from the end, on which the level is found (Sparsing Law)."""

Read = Callable[[LoadedModel], tuple[Corpus, Corpus | None]]
"""Gives the corpus to measure on and the held-out one, for the tokenizer of this model."""


def find_checkpoints(run: str | Path) -> list[Path]:
    """The checkpoint folders directly below `run`, in the order of training.

    A checkpoint has a `config.json` and says how far it was trained: `trainer_state.json` (Trainer),
    `training_state.json`, or a name such as `checkpoint-1200`.

    Raises:
        InputError: no such folder, no checkpoint in it, or one that does not say its step.
    """
    run = Path(run)
    folders = sorted(path.parent for path in run.glob("*/config.json"))
    if not folders:
        raise InputError(
            f"no checkpoints in {str(run)!r}; give the folder that holds checkpoint-100, checkpoint-200, ..."
        )
    order: dict[Path, int] = {}
    for folder in folders:
        step, tokens = training_state(folder)
        place = step if step is not None else tokens
        if place is None:
            raise InputError(
                f"{str(folder)!r} does not say its step; name it checkpoint-<step>, or write a"
                ' training_state.json with {"step": ..., "tokens": ...} into it'
            )
        order[folder] = place
    return sorted(folders, key=lambda folder: order[folder])


def track(
    checkpoints: Sequence[str | Path],
    read: Read,
    folder: str | Path,
    *,
    name: str | None = None,
    ppl_ratio: float = 1.01,
    last: int = LAST,
    tokens_per_step: int | None = None,
    batch_size: int | None = None,
    load: Callable[[str], LoadedModel] = load_model,
    progress: Progress | None = None,
) -> Track:
    """Measure checkpoints of one run at one CETT; results appear in `folder`, where a cut-off run resumes.

    Writes `track.json`, `points.csv` (for `sparsing fit`), and `<checkpoint>/measurement.json` with its
    `thresholds.json` for each checkpoint.

    Args:
        checkpoints: Folders in the order of training (`find_checkpoints`).
        read: Text as windows, e.g.
            `lambda loaded: split_holdout(load_corpus("book.txt", loaded.tokenizer, window=512), 0.1)`.
        name: Of the run; by default that of the folder above the checkpoints.
        ppl_ratio: Mean perplexity ratio of the last checkpoints, above 1.
        last: How many checkpoints, from the end, the CETT is found on.
        tokens_per_step: For checkpoints that know their step and not their tokens.
        batch_size: Windows per batch; by memory where None.
        load: Loads a checkpoint; for another dtype or device.

    Raises:
        InputError: no checkpoints, two with one name, tokens that are not known or do not rise, tokenizers
            that differ, a target of 1 or below.
        TargetError: no CETT reaches the target.
    """
    folder = Path(folder)
    places = _places(checkpoints, tokens_per_step)
    if not (math.isfinite(ppl_ratio) and ppl_ratio > 1 and last >= 1):
        raise InputError(
            f"ppl_ratio must be above 1 and last at least 1, got {ppl_ratio} and {last}; 1.01 stands for PPL-1%"
        )
    check_writable(folder)
    opener = _Opener(read, load, folder, places, batch_size, progress)
    names = [str(checkpoint) for checkpoint in checkpoints]
    rule = make_rule("cett")
    parked = {path: ParkedSubject(path, opener) for path in names[-last:]}
    found = search_jointly(list(parked.values()), rule, ppl_ratio)
    points = []
    for path in names:
        subject = parked.pop(path) if path in parked else Subject(**opener.parts(path))
        points.append(point_of(_measured(subject, found.level, folder / Path(path).name)))
    result = Track(
        name=name or Path(names[-1]).resolve().parent.name,
        level=found.level,
        target_ppl_ratio=ppl_ratio,
        search=found,
        joint=tuple(Path(path).name for path in names[-last:]),
        points=tuple(points),
        provenance=subject.provenance,
    )
    result.save(folder / "track.json")
    write_text(folder / "points.csv", result.points_csv())
    subject.journal.clear()
    return result


def _places(checkpoints: Sequence[str | Path], tokens_per_step: int | None) -> dict[str, int]:
    """Training tokens of each checkpoint; everything about the order is checked here, before any model."""
    if not checkpoints:
        raise InputError("no checkpoints to track; see find_checkpoints")
    tokens: dict[str, int] = {}
    for path in map(str, checkpoints):
        step, seen = training_state(Path(path))
        if seen is None and tokens_per_step is not None and step is not None:
            seen = step * tokens_per_step
        if seen is None:
            raise InputError(
                f"{path!r} does not say how many tokens it was trained on; give --tokens-per-step (sequences of"
                " a step times their length), or train with include_num_input_tokens_seen=True"
            )
        tokens[path] = seen
    if len({Path(path).name for path in tokens}) < len(checkpoints):
        raise InputError("two checkpoints have the same name; track one run at a time")
    if sorted(set(tokens.values())) != list(tokens.values()):
        raise InputError(f"training tokens must rise from checkpoint to checkpoint, got {[*tokens.values()]}")
    return tokens


class _Opener:
    """Loads a checkpoint and gives what a `Subject` is made from, all on the same tokens."""

    def __init__(
        self,
        read: Read,
        load: Callable[[str], LoadedModel],
        folder: Path,
        tokens: dict[str, int],
        batch_size: int | None,
        progress: Progress | None,
    ):
        self._read, self._load, self._folder, self._tokens = read, load, folder, tokens
        self._batch_size, self._progress = batch_size, progress
        self._corpora: tuple[Corpus, Corpus | None] | None = None
        self._vocabulary: dict[str, int] = {}

    def model(self, path: str) -> LoadedModel:
        return dataclasses.replace(self._load(path), train_tokens=self._tokens[path])

    def parts(self, path: str) -> dict:
        """Arguments of `Subject`."""
        loaded = self.model(path)
        if self._corpora is None:
            self._corpora, self._vocabulary = self._read(loaded), loaded.tokenizer.get_vocab()
        elif loaded.tokenizer.get_vocab() != self._vocabulary:
            raise InputError(
                f"{path!r} has another tokenizer than the checkpoints before; track one run at a time"
            )
        corpus, heldout = self._corpora
        return {
            "loaded": loaded,
            "corpus": corpus,
            "heldout": heldout,
            "scores": ("neuron_norm",),
            "journal": open_journal(self._folder, loaded, corpus, batch_size=self._batch_size),
            "batch_size": self._batch_size,
            "progress": self._progress,
        }


class ParkedSubject(Subject):
    """A subject whose model is on disk while others are at work."""

    def __init__(self, path: str, opener: _Opener):
        super().__init__(**opener.parts(path))
        self._reload = lambda: opener.model(path)
        self._park()

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """With the model in memory."""
        self.loaded = self._reload()
        try:
            yield
        finally:
            self._park()

    def ppl_ratio(self, rule: Rule, level: float, on_all: bool) -> float:
        with self.awake():
            return super().ppl_ratio(rule, level, on_all)

    def _park(self) -> None:
        del self.loaded  # nothing else holds the model


def _measured(subject: Subject, level: float, folder: Path) -> Measurement:
    with subject.awake() if isinstance(subject, ParkedSubject) else contextlib.nullcontext():
        result = measure(subject, "cett", level=level)
    result.save(folder / "measurement.json")
    result.thresholds.save(folder / "thresholds.json")
    return result
