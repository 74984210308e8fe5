"""The fourteen tasks of Sparsing Law (Tables 1 and 4-6) as lm-eval's own tasks, with the paper's shots and groups.

A task of the paper consists of one or more tasks of lm-eval. Its score is the mean over all their items, which is how
lm-eval scores its groups. `docs/evaluation.md` lists the differences from the evaluator of the reference.
"""

from __future__ import annotations

import dataclasses
from typing import Any

GROUPS = {"commonsense": "Commonsense", "reading": "Reading comprehension", "other": "Others"}
"""Group to its heading in the paper's tables."""

_AGIEVAL = (
    *("aqua_rat", "gaokao_biology", "gaokao_chemistry", "gaokao_chinese", "gaokao_english"),
    *("gaokao_geography", "gaokao_history", "gaokao_mathqa", "logiqa_en", "logiqa_zh", "lsat_ar"),
    *("lsat_lr", "lsat_rc", "sat_en", "sat_en_without_passage", "sat_math"),
)
"""The sixteen sets that the reference scores: all sets in which exactly one option is right."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PaperTask:
    """A task under the paper's name.

    The digest of a saved outcome covers this record, so a changed field makes every task run again.
    """

    name: str
    group: str
    """One of `GROUPS`; empty for a task that is not the paper's."""
    parts: tuple[str, ...]
    """Names in lm-eval: tasks, groups or tags."""
    folder: str = ""
    """The subfolder of lm-eval's task folder that defines them; reading the whole folder takes ten seconds."""
    columns: tuple[tuple[str, str], ...] = ()
    """Pairs of a heading in the paper's tables and lm-eval's `metric,filter`. Empty: the first metric reported."""
    shots: int | None = None
    """Examples in the prompt; None keeps the number of the task definition."""
    else_parts: tuple[str, ...] = ()
    """Used instead if the local files have no item of `parts`."""
    runs_code: bool = False
    """Whether the task executes generated programs."""


def _task(name: str, title: str, group: str, metric: str, **fields: Any) -> PaperTask:
    """A task with one column; by default zero-shot, and lm-eval's task and folder have the same name."""
    defaults: dict[str, Any] = {"parts": (name,), "folder": name, "columns": ((title, metric),), "shots": 0}
    return PaperTask(name=name, group=group, **defaults | fields)


_COMMONSENSE = (
    _task("piqa", "PIQA", "commonsense", "acc,none"),
    _task("siqa", "SIQA", "commonsense", "acc,none", parts=("social_iqa",)),
    _task("hellaswag", "HellaSwag", "commonsense", "acc_norm,none"),
    _task("winogrande", "WinoGrande", "commonsense", "acc,none"),
    _task("copa", "COPA", "commonsense", "acc,none", folder="super_glue"),
)
_READING = (
    _task("boolq", "BoolQ", "reading", "acc,none", folder="super_glue"),
    _task("lambada", "LAMBADA", "reading", "acc,none", parts=("lambada_openai",)),
    # The reference takes the English questions only. Some published copies of the data have none.
    PaperTask(
        name="tydiqa",
        group="reading",
        parts=("tydiqa_goldp_en",),
        folder="tydiqa",
        columns=(("TyDiQA_F1", "f1,none"), ("TyDiQA_acc", "exact_match,none")),
        shots=0,
        else_parts=tuple(f"tydiqa_goldp_{code}" for code in ("ar", "bn", "fi", "id", "ko", "ru", "sw", "te")),
    ),
)
_OTHER = (
    _task("agieval", "AGIEval", "other", "acc,none", parts=tuple(f"agieval_{name}" for name in _AGIEVAL)),
    _task("humaneval", "HumanEval", "other", "pass@1,create_test", runs_code=True),
    _task("mbpp", "MBPP", "other", "pass_at_1,none", runs_code=True, shots=3),
    _task("gsm8k", "GSM8K", "other", "exact_match,strict-match", shots=8),
    _task("mmlu", "MMLU", "other", "acc,none", folder="mmlu/default", shots=5),
    _task("bbh", "BBH", "other", "exact_match,get-answer", parts=("bbh_cot_fewshot",), shots=3),
)

PAPER_TASKS: dict[str, PaperTask] = {task.name: task for task in (*_COMMONSENSE, *_READING, *_OTHER)}
"""Name to task, in the order of the paper's tables."""


def harness_task(name: str) -> PaperTask:
    """A task of lm-eval under its own name."""
    return PaperTask(name=name, group="", parts=(name,))
