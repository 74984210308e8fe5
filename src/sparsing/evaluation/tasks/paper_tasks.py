"""The fourteen tasks of Sparsing Law (Tables 1, 4-6) as lm-eval's own tasks, with the paper's shots and groups.

A paper task is one or more tasks of the harness; its score is the mean over their items, as the harness's
groups compute it. What is measured differently from the reference's evaluator is in `docs/evaluation.md`.
"""

from __future__ import annotations

import dataclasses

GROUPS = {"commonsense": "Commonsense", "reading": "Reading comprehension", "other": "Others"}
"""Group to the heading in the paper's tables."""

_AGIEVAL = (
    *("aqua_rat", "gaokao_biology", "gaokao_chemistry", "gaokao_chinese", "gaokao_english"),
    *("gaokao_geography", "gaokao_history", "gaokao_mathqa", "logiqa_en", "logiqa_zh", "lsat_ar"),
    *("lsat_lr", "lsat_rc", "sat_en", "sat_en_without_passage", "sat_math"),
)
"""The sixteen sets that the reference scores: those with one right option."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PaperTask:
    """A task under the paper's name."""

    name: str
    group: str
    """One of `GROUPS`; empty for a task that is not the paper's."""
    parts: tuple[str, ...]
    """Names in the harness: tasks, groups or tags."""
    folder: str = ""
    """Where in the harness's task folder they are defined; reading all of it takes ten seconds."""
    columns: tuple[tuple[str, str], ...] = ()
    """Heading in the paper's tables and `metric,filter` of the harness; empty takes the first one reported."""
    shots: int | None = None
    """Examples in the prompt; None leaves the harness's own number."""
    else_parts: tuple[str, ...] = ()
    """Taken where local files hold no item of `parts`."""
    runs_code: bool = False
    """True when generated programs are executed."""


def _task(name: str, title: str, group: str, metric: str, **fields: object) -> PaperTask:
    usual = {"parts": (name,), "folder": name, "columns": ((title, metric),), "shots": 0}
    return PaperTask(name=name, group=group, **usual | fields)  # pyright: ignore[reportArgumentType]


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
    # the reference takes the English questions only; the others stand in where there are none
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
    _task("agieval", "AGIEval", "other", "acc,none", parts=tuple(f"agieval_{one}" for one in _AGIEVAL)),
    _task("humaneval", "HumanEval", "other", "pass@1,create_test", runs_code=True),
    _task("mbpp", "MBPP", "other", "pass_at_1,none", runs_code=True, shots=3),
    _task("gsm8k", "GSM8K", "other", "exact_match,strict-match", shots=8),
    _task("mmlu", "MMLU", "other", "acc,none", folder="mmlu/default", shots=5),
    _task("bbh", "BBH", "other", "exact_match,get-answer", parts=("bbh_cot_fewshot",), shots=3),
)

PAPER_TASKS: dict[str, PaperTask] = {task.name: task for task in (*_COMMONSENSE, *_READING, *_OTHER)}
"""In the order of the tables."""


def harness_task(name: str) -> PaperTask:
    """A task of the harness under its own name."""
    return PaperTask(name=name, group="", parts=(name,))
