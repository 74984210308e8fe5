"""Measures the checkpoints of a finished training run as Sparsing Law does (arXiv 2411.02335); start at `track`.

ONE CETT is found on the last five checkpoints together, where the mean of their perplexity ratios meets the target. All
checkpoints are measured at this CETT, so their activation ratios can be compared along training. Every pass is kept in
a journal until the end, so a run that was cut off resumes at the checkpoint and window that it had reached. One model
is in memory at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sparsing.base.progress import Progress
from sparsing.base.results import write_text
from sparsing.base.run_lock import lock_folder
from sparsing.errors import InputError
from sparsing.measuring._measure import measure
from sparsing.measuring.joint_search import search_jointly
from sparsing.measuring.journal import Journal
from sparsing.measuring.measurement import Measurement
from sparsing.measuring.observation import Observation
from sparsing.measuring.run_folder import open_journal, save_measurement, write_claim
from sparsing.measuring.subject import Subject
from sparsing.models.adapter import ADAPTER_CONFIG
from sparsing.models.checkpoint import training_position
from sparsing.models.loading import LoadedModel, load_model
from sparsing.rules import Rule, make_rule
from sparsing.text.corpus import Corpus
from sparsing.training.track_result import Track, TrackPoint

_CONFIGS = ("config.json", ADAPTER_CONFIG)
JOINT_CHECKPOINTS = 5
"""Checkpoints, from the end, on which the CETT is found (Sparsing Law)."""

CorpusReader = Callable[[LoadedModel], tuple[Corpus, Corpus | None]]
"""Gives the corpus to measure on and the held-out corpus, tokenized for this model."""


def find_checkpoints(run: str | Path) -> list[Path]:
    """The checkpoint folders directly below `run`, in the order of training.

    A checkpoint has a `config.json`, or an `adapter_config.json` if an adapter was trained. Its training step is
    in `training_state.json`, in the `trainer_state.json` of the Trainer, or in its name, such as `checkpoint-1200`.

    Raises:
        InputError: if there is no checkpoint in the folder, or the step of a checkpoint is not known.
    """
    run = Path(run)
    order: dict[Path, int] = {}
    for folder in sorted({path.parent for name in _CONFIGS for path in run.glob(f"*/{name}")}):
        position = training_position(folder)
        place = position.step if position.step is not None else position.tokens
        if place is None:
            raise InputError(
                f"the training step of {str(folder)!r} is not known; name the folder checkpoint-<step>, or write a"
                ' training_state.json with {"step": ..., "tokens": ...} into it'
            )
        order[folder] = place
    if not order:
        raise InputError(
            f"no checkpoints in {str(run)!r}; give the folder that holds checkpoint-100, checkpoint-200, ..."
        )
    return sorted(order, key=lambda folder: order[folder])


def track(
    checkpoints: Sequence[str | Path],
    read: CorpusReader,
    folder: str | Path,
    *,
    name: str | None = None,
    ppl_ratio: float = 1.01,
    last: int = JOINT_CHECKPOINTS,
    tokens_per_step: int | None = None,
    batch_size: int | None = None,
    load: Callable[[str], LoadedModel] = load_model,
    progress: Progress | None = None,
) -> Track:
    """Measure the checkpoints of one run at one CETT.

    Writes into `folder`: `track.json`, `points.csv` (for `sparsing fit`), and for each checkpoint
    `<checkpoint>/measurement.json` with its `thresholds.json`. The same call resumes a run that was cut off.

    Args:
        checkpoints: Folders in the order of training, see `find_checkpoints`.
        read: Gives the text as windows, e.g.
            `lambda loaded: split_holdout(load_corpus("book.txt", loaded.tokenizer, window=512), 0.1)`.
        name: Name of the run; by default the name of the folder above the checkpoints.
        ppl_ratio: Target of the mean perplexity ratio of the last checkpoints, above 1.
        last: Number of checkpoints, from the end, on which the CETT is found.
        tokens_per_step: Training tokens per step, for checkpoints that store their step but not their tokens.
        batch_size: Windows per batch; None chooses it by the memory.
        load: Loads a checkpoint; give another function for another dtype or device.

    Raises:
        InputError: if there are no checkpoints, two have the same name, their training tokens are not known or do not
            rise, their tokenizers differ, or the target is 1 or below.
        TargetError: if no CETT reaches the target.
    """
    folder = Path(folder)
    tokens = _training_tokens(checkpoints, tokens_per_step)
    if not (math.isfinite(ppl_ratio) and ppl_ratio > 1 and last >= 1):
        raise InputError(
            f"ppl_ratio must be above 1 and last at least 1, got {ppl_ratio} and {last}; 1.01 stands for PPL-1%"
        )
    with lock_folder(folder):
        run = Path(list(tokens)[-1]).resolve().parent
        write_claim(folder, {"run": str(run)}, {})
        return _track(
            _SubjectOpener(read, load, folder, tokens, batch_size, progress),
            name or run.name,
            ppl_ratio,
            last,
        )


def _track(opener: _SubjectOpener, name: str, ppl_ratio: float, last: int) -> Track:
    """Measures the checkpoints of `opener` and writes the results into its folder.

    Args:
        name: Name of the run.
        ppl_ratio: As in `track`, as is `last`.
    """
    folder = opener.folder
    paths = list(opener.tokens)
    joint = {path: opener.open_parked(path) for path in paths[-last:]}
    search = search_jointly(list(joint.values()), make_rule("cett"), ppl_ratio)
    points = []
    for path in paths:
        subject = joint.pop(path) if path in joint else opener.open(path)
        points.append(TrackPoint.of(_measure_checkpoint(subject, search.level, folder / Path(path).name)))
    result = Track(
        name=name,
        level=search.level,
        target_ppl_ratio=ppl_ratio,
        search=search,
        joint=tuple(Path(path).name for path in paths[-last:]),
        points=tuple(points),
        provenance=subject.provenance,
    )
    result.save(folder / "track.json")
    write_text(folder / "points.csv", result.points_csv())
    for journal in opener.journals:
        journal.clear()
    return result


def _training_tokens(checkpoints: Sequence[str | Path], tokens_per_step: int | None) -> dict[str, int]:
    """Training tokens of each checkpoint. All errors in the list of checkpoints are found here, before loading any."""
    if not checkpoints:
        raise InputError("no checkpoints to track; find_checkpoints(run) gives those of a run")
    tokens: dict[str, int] = {}
    for path in map(str, checkpoints):
        position = training_position(Path(path))
        step, seen = position.step, position.tokens
        counted = step * tokens_per_step if tokens_per_step is not None and step is not None else None
        if seen is not None and counted not in (None, seen):
            raise InputError(
                f"{path!r} records {seen:,} training tokens, but --tokens-per-step {tokens_per_step} makes {counted:,};"
                " leave it out"
            )
        seen = counted if seen is None else seen
        if seen is None:
            raise InputError(
                f"the training tokens of {path!r} are not known; give --tokens-per-step (sequences per step times"
                " their length), or train with include_num_input_tokens_seen=True"
            )
        tokens[path] = seen
    if len({Path(path).name for path in tokens}) < len(checkpoints):
        raise InputError("two checkpoints have the same name; track one run at a time")
    if sorted(set(tokens.values())) != list(tokens.values()):
        raise InputError(
            f"training tokens must rise from checkpoint to checkpoint, got {[*tokens.values()]}; sort the checkpoints"
        )
    return tokens


@dataclasses.dataclass
class _SubjectOpener:
    """Opens the checkpoints of a run as subjects, all on the same tokens."""

    read: CorpusReader
    load: Callable[[str], LoadedModel]
    folder: Path
    tokens: dict[str, int]
    """Training tokens by checkpoint."""
    batch_size: int | None
    progress: Progress | None
    _corpora: tuple[Corpus, Corpus | None] | None = None
    _vocabulary: dict[str, int] = dataclasses.field(default_factory=dict)
    journals: list[Journal] = dataclasses.field(default_factory=list)
    """The journals of the opened checkpoints."""

    def open(self, path: str) -> Subject:
        return Subject(**self._arguments(path))

    def open_parked(self, path: str) -> ParkedSubject:
        return ParkedSubject(lambda: self._load(path), **self._arguments(path))

    def _load(self, path: str) -> LoadedModel:
        return dataclasses.replace(self.load(path), train_tokens=self.tokens[path])

    def _arguments(self, path: str) -> dict[str, Any]:
        """Arguments of `Subject` for this checkpoint."""
        loaded = self._load(path)
        # the text is tokenized once, which is right for all checkpoints only if their vocabularies are equal
        if self._corpora is None:
            self._corpora, self._vocabulary = self.read(loaded), loaded.tokenizer.get_vocab()
        elif loaded.tokenizer.get_vocab() != self._vocabulary:
            raise InputError(
                f"{path!r} has another tokenizer than the checkpoints before it; track one run at a time"
            )
        corpus, heldout = self._corpora
        if not self.journals:  # the text is the same for all checkpoints
            write_claim(self.folder, {"text": corpus.sha256()}, {"text": corpus.source})
        self.journals.append(open_journal(self.folder, loaded, corpus, batch_size=self.batch_size))
        return {
            "loaded": loaded,
            "corpus": corpus,
            "heldout": heldout,
            "scores": ("neuron_norm",),
            "journal": self.journals[-1],
            "batch_size": self.batch_size,
            "progress": self.progress,
        }


class ParkedSubject(Subject):
    """A subject whose model is in memory only while it is used, so that a joint search fits into memory."""

    def __init__(self, reload: Callable[[], LoadedModel], **arguments: Any):
        super().__init__(**arguments)
        self._reload = reload
        self._park()

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Loads the model for the time of the context."""
        self.loaded = self._reload()
        try:
            yield
        finally:
            self._park()

    def observe(self, rule: Rule, level: float, on_all: bool, label: str = "") -> Observation:
        with self.awake():
            return super().observe(rule, level, on_all, label)

    def _park(self) -> None:
        del self.loaded  # with the sites of the scores, the only reference to the model
        self._covering.clear()


def _measure_checkpoint(subject: Subject, level: float, folder: Path) -> Measurement:
    with subject.awake() if isinstance(subject, ParkedSubject) else contextlib.nullcontext():
        result = measure(subject, "cett", level=level)
    save_measurement(result, folder)
    return result
