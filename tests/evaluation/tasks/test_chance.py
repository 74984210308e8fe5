"""Chance is the mean over items of one over the number of options."""

from __future__ import annotations

import pytest

from sparsing.evaluation.tasks.chance import chance_of
from sparsing.evaluation.tasks.loading import TaskLoader


@pytest.mark.parametrize(
    ("name", "chance"),
    [
        ("winogrande", 1 / 2),
        ("siqa", 1 / 3),
        ("hellaswag", 1 / 4),
        (
            "agieval",
            (12 / 4 + 4 / 5) / 16,
        ),  # aqua-rat and the three lsat sets have five options, the others four
        ("lambada", None),
        ("gsm8k", None),
    ],
)
def test_chance(name, chance, lm_eval, bench):
    loader = TaskLoader(task_data=bench)
    (task,) = loader.check([name])
    assert chance_of(loader.load(task, 512), limit=2) == (chance and pytest.approx(chance))


def test_items_count_and_not_parts():
    """Two items of two options and one of four."""

    class Part:
        OUTPUT_TYPE = "multiple_choice"

        def __init__(self, *options):
            self.eval_docs = options

        def doc_to_choice(self, document):
            return range(document)

    class Loaded:
        parts = (Part(2, 2), Part(4, 9))

    assert chance_of(Loaded()) == pytest.approx((1 / 2 + 1 / 2 + 1 / 4 + 1 / 9) / 4)
    Loaded.parts = (Part(2, 2), Part(4))
    assert chance_of(Loaded()) == pytest.approx((1 / 2 + 1 / 2 + 1 / 4) / 3)
    assert chance_of(Loaded(), limit=1) == pytest.approx((1 / 2 + 1 / 4) / 2)
