"""A pass: the loss of each window, no effect of padding and batch size, bit-equal resuming, and merging of totals."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

import sparsing.measuring.journal
from sparsing.base.progress import Progress
from sparsing.errors import InputError
from sparsing.measuring.batch_size import BatchLimit
from sparsing.measuring.journal import Journal
from sparsing.measuring.observers import SparseObserver
from sparsing.measuring.passes import LossOnly, PassSettings, Totals, run_pass
from sparsing.rules.mask import Mask
from sparsing.rules.thresholds import Thresholds
from sparsing.text.corpus import load_corpus

from ..helpers.measuring import assert_same_totals, random_text, text_corpus, tiny_loaded, totals_of_halves
from ..helpers.tiny import SIZES, tiny_tokenizer

CUTS = Thresholds(rule="cett", level=0.1, on="neuron_norm", values=(0.03, 0.05))


def dense(loaded, corpus, **settings):
    return run_pass(loaded, corpus, LossOnly(), key="dense", settings=PassSettings(**settings))


def sparse(loaded, corpus, *, observer=SparseObserver, head=True, **settings):
    mask, options = Mask(loaded.sites, CUTS), PassSettings(**settings)
    return run_pass(
        loaded, corpus, observer(loaded.sites, corpus), mask, key="sparse", settings=options, head=head
    )


def arrays(result) -> dict[str, np.ndarray]:
    """Everything that a pass has added up."""
    totals = {name: tensor.numpy() for name, tensor in result.totals.tensors().items()}
    return totals | {"nll": result.nll, "labels": result.labels}


def bit_equal(first, second) -> bool:
    a, b = arrays(first), arrays(second)
    return set(a) == set(b) and all(a[name].tobytes() == b[name].tobytes() for name in a)


@pytest.mark.parametrize(("bos", "stride"), [("never", None), ("always", None), ("never", 7), ("always", 20)])
def test_the_loss_is_that_of_the_labelled_tokens(bos, stride):
    loaded = tiny_loaded()
    corpus = text_corpus(150, bos=bos, stride=stride)
    totals = dense(loaded, corpus, batch_size=3)
    lead = [1] * (bos == "always")
    for window in range(corpus.n_windows):
        start, length = corpus.starts[window], corpus.lengths[window]
        ids = torch.tensor([*lead, *corpus.ids[start : start + length].tolist()])
        with torch.no_grad():
            logs = loaded.model(ids[None]).logits[0].double().log_softmax(-1)
        first = max(1, int(corpus.fresh[window]) + len(lead))
        nll = -sum(logs[i - 1, ids[i]].item() for i in range(first, len(ids)))
        assert totals.nll[window] == pytest.approx(nll, rel=1e-6)
        assert totals.labels[window] == len(ids) - first


@pytest.mark.parametrize("model_type", sorted(SIZES))
def test_padding_on_the_right_changes_nothing(model_type):
    loaded = tiny_loaded(model_type)
    texts = [random_text(n, seed=n) for n in (9, 31, 20)]
    whole = load_corpus(texts, tiny_tokenizer(), window=32, documents=True)
    together = sparse(loaded, whole, batch_size=3)
    for row, text in enumerate(texts):
        alone = sparse(loaded, load_corpus([text], tiny_tokenizer(), window=32, documents=True))
        assert together.totals.tokens[row] == alone.totals.tokens[0] == len(text)
        assert together.nll[row] == pytest.approx(alone.nll[0], rel=1e-6)
        # a neuron within rounding of its cut may fall on either side
        for many, single in zip(together.totals.active, alone.totals.active, strict=True):
            assert abs(many[row] - single[0]) <= 1


def test_the_head_can_be_left_out():
    loaded, corpus = tiny_loaded(), text_corpus(100)
    whole, body = sparse(loaded, corpus), sparse(loaded, corpus, head=False)
    assert not body.nll.any()
    for name in ("active.0", "neuron.1", "cett.1"):
        assert np.array_equal(arrays(whole)[name], arrays(body)[name])


class Fails(SparseObserver):
    """Raises inside a hook in one of its batches."""

    at = 4

    def see(self, index, rows, change):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 2 * self.at:
            raise RuntimeError("power cut")
        super().see(index, rows, change)


@pytest.mark.parametrize("save_every", [0.0, 1e9])
def test_a_pass_that_was_cut_off_goes_on_to_bit_equal_totals(save_every, tmp_path, monkeypatch):
    monkeypatch.setattr(sparsing.measuring.journal, "SAVE_EVERY_SEC", save_every)
    loaded, corpus = tiny_loaded(), text_corpus(400)
    whole = sparse(loaded, corpus, batch_size=2)
    with pytest.raises(RuntimeError, match="power cut"):
        sparse(loaded, corpus, batch_size=2, observer=Fails, journal=Journal(tmp_path))
    left = Journal(tmp_path).get("sparse")
    assert (left is None) if save_every else (left is not None and left["next_window"][0] == 6)
    seen: list[int] = []

    class Counts(SparseObserver):
        def begin(self, batch):
            seen.extend(batch.windows.tolist())
            super().begin(batch)

    resumed = sparse(loaded, corpus, batch_size=2, observer=Counts, journal=Journal(tmp_path))
    assert bit_equal(resumed, whole)
    assert seen == list(range(0 if save_every else 6, corpus.n_windows))


@pytest.mark.parametrize("change", ["shape", "dtype", "missing", "extra"])
def test_saved_totals_of_another_form_are_dropped_and_the_pass_runs_again(change, tmp_path, caplog):
    loaded, corpus = tiny_loaded(), text_corpus(100)
    whole = sparse(loaded, corpus, journal=Journal(tmp_path))
    totals = dict(Journal(tmp_path).get("sparse") or {})
    name = "observed.neuron.1"
    if change == "shape":
        totals[name] = np.concatenate([totals[name], totals[name]])
    elif change == "dtype":
        totals[name] = totals[name].astype(np.float32)
    elif change == "missing":
        del totals[name]
    else:
        totals["more"] = totals[name]
    Journal(tmp_path).put("sparse", totals)
    assert bit_equal(sparse(loaded, corpus, journal=Journal(tmp_path)), whole)
    assert "other names or shapes" in caplog.text


def test_a_pass_that_is_complete_is_not_run_again(tmp_path):
    loaded, corpus = tiny_loaded(), text_corpus(100)
    first = sparse(loaded, corpus, journal=Journal(tmp_path))
    Fails.at = 1
    try:
        again = sparse(loaded, corpus, journal=Journal(tmp_path), observer=Fails)
    finally:
        Fails.at = 4
    assert bit_equal(first, again)


def test_what_a_pass_returns_is_its_own():
    loaded, corpus, journal = tiny_loaded(), text_corpus(100), Journal()
    first = sparse(loaded, corpus, journal=journal)
    first.nll[:] = 0
    assert sparse(loaded, corpus, journal=journal).nll.all()


def test_progress_is_told_of_every_token():
    class Counting(Progress):
        told = 0

        def bar(self, label, total, done=0, *, usual=True):
            import contextlib

            self.total = total

            @contextlib.contextmanager
            def count():
                yield lambda tokens: setattr(self, "told", self.told + tokens)

            return count()

    progress = Counting(False)
    dense(tiny_loaded(), text_corpus(100), progress=progress)
    assert progress.told == progress.total == 100


class OutOfMemory(SparseObserver):
    """Has room for batches of two windows; larger ones end halfway, as on an accelerator."""

    sizes: ClassVar[list[int]] = []

    def begin(self, batch):
        super().begin(batch)
        self.sizes.append(len(batch.windows))

    def see(self, index, rows, change):
        super().see(index, rows, change)
        if index == 1 and rows.leading[0] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_a_batch_without_room_in_memory_is_halved_until_it_has_room():
    loaded, corpus, limit = tiny_loaded(), text_corpus(400), BatchLimit()
    whole = sparse(loaded, corpus, batch_size=2)
    OutOfMemory.sizes = []
    with pytest.warns(UserWarning, match=r"windows .* do not fit .* goes on with \d windows") as warned:
        halved = sparse(loaded, corpus, observer=OutOfMemory, batch_size=8, limit=limit)
    assert [str(warning.message).split()[0] for warning in warned] == ["8", "4"]
    assert OutOfMemory.sizes[:3] == [8, 4, 2]
    assert limit.windows == 2, "the next pass begins with the batch that fits"
    assert bit_equal(halved, whole)


def test_a_window_without_room_in_memory_says_what_to_do():
    class NoRoom(SparseObserver):
        def see(self, index, rows, change):
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
            )

    with pytest.raises(InputError, match=r"one window of 32 tokens .* --window"):
        sparse(tiny_loaded(), text_corpus(100, window=32), observer=NoRoom, batch_size=1)


@dataclasses.dataclass(eq=False)
class Inner(Totals):
    counts: list[torch.Tensor]


@dataclasses.dataclass(eq=False)
class Largest(Totals):
    """Totals that are no sums."""

    value: torch.Tensor

    def merge(self, other):
        self.value.copy_(torch.maximum(self.value, other.value))


@dataclasses.dataclass(eq=False)
class Nested(Totals):
    total: torch.Tensor
    named: dict[str, Inner]
    largest: list[Largest]


def nested(value: float) -> Nested:
    count = torch.tensor([int(value), 7])
    return Nested(
        total=torch.tensor(value, dtype=torch.float64),
        named={"a": Inner(counts=[count, 2 * count]), "b": Inner(counts=[])},
        largest=[Largest(value=torch.tensor([value, 2.5]))],
    )


def test_tensors_have_dotted_paths_and_are_the_sums_themselves():
    totals = nested(1.0)
    tensors = totals.tensors()
    assert list(tensors) == ["total", "named.a.counts.0", "named.a.counts.1", "largest.0.value"]
    tensors["named.a.counts.1"] += 1
    assert totals.named["a"].counts[1].tolist() == [3, 15]


def test_merge_adds_every_tensor_and_lets_nested_totals_merge_in_their_own_way():
    first, second = nested(1.0), nested(4.0)
    first.merge(second)
    assert first.total == 5.0
    assert [count.tolist() for count in first.named["a"].counts] == [[5, 14], [10, 28]]
    assert first.largest[0].value.tolist() == [4.0, 2.5]
    assert second.total == 4.0
    with pytest.raises(ValueError, match="zip"):
        first.named["b"].merge(second.named["a"])


def test_move_to_cpu_keeps_tensors_that_are_there():
    totals = nested(1.0)
    before = totals.tensors()
    totals.move_to_cpu()
    assert all(tensor is before[path] for path, tensor in totals.tensors().items())


def test_two_halves_of_a_sparse_pass_add_up_to_the_whole():
    loaded, corpus = tiny_loaded(), text_corpus(400, window=32, stride=25, bos="always")
    mask = Mask(loaded.sites, CUTS)
    whole, first, second = totals_of_halves(
        loaded, corpus, lambda: SparseObserver(loaded.sites, corpus), mask, batch_size=2
    )
    first.merge(second)
    assert_same_totals(first, whole)


KILLED = """
import sys
import torch
import sparsing.measuring.journal
from pathlib import Path
from tests.helpers.measuring import text_corpus, tiny_loaded
from tests.measuring.test_passes import CUTS
from sparsing.measuring.journal import Journal
from sparsing.measuring.passes import PassSettings, run_pass
from sparsing.measuring.observers import SparseObserver
from sparsing.rules.mask import Mask

sparsing.measuring.journal.SAVE_EVERY_SEC = 0.0

class Slow(SparseObserver):
    def begin(self, batch):
        if batch.windows[0] == 8:
            print("there", flush=True)
            while True:
                pass
        super().begin(batch)

torch.set_num_threads(1)
loaded, corpus = tiny_loaded(), text_corpus(400)
settings = PassSettings(journal=Journal(Path(sys.argv[1])), batch_size=2)
observer = Slow(loaded.sites, corpus)
run_pass(loaded, corpus, observer, Mask(loaded.sites, CUTS), key="sparse", settings=settings)
"""


@pytest.mark.slow
def test_a_pass_survives_kill_9(tmp_path):
    root = Path(__file__).resolve().parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, cwd=root, text=True
    )
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == "there\n"
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    left = Journal(tmp_path).get("sparse")
    assert left is not None
    assert left["next_window"][0] == 8
    loaded, corpus = tiny_loaded(), text_corpus(400)
    resumed = sparse(loaded, corpus, batch_size=2, journal=Journal(tmp_path))
    assert bit_equal(resumed, sparse(loaded, corpus, batch_size=2))
