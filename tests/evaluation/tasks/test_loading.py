"""Tasks by name: refused names, shortened answers, and definitions that are those of lm-eval."""

from __future__ import annotations

import logging

import pytest

from sparsing.errors import InputError
from sparsing.evaluation.tasks.paper_tasks import GROUPS, PAPER_TASKS

pytestmark = pytest.mark.usefixtures("lm_eval")


@pytest.fixture
def loader(bench):
    from sparsing.evaluation.tasks.loading import TaskLoader

    return TaskLoader(task_data=bench)


def test_the_papers_tasks_in_their_groups():
    names = {group: [task.name for task in PAPER_TASKS.values() if task.group == group] for group in GROUPS}
    assert names == {
        "commonsense": ["piqa", "siqa", "hellaswag", "winogrande", "copa"],
        "reading": ["boolq", "lambada", "tydiqa"],
        "other": ["agieval", "humaneval", "mbpp", "gsm8k", "mmlu", "bbh"],
    }
    shots = {name: task.shots for name, task in PAPER_TASKS.items() if task.shots}
    assert shots == {"mbpp": 3, "gsm8k": 8, "mmlu": 5, "bbh": 3}


def test_columns_are_those_of_the_papers_tables(shared):
    import csv

    path = shared / "data" / "paper_tables.csv"
    with path.open() as lines:
        published = {row["benchmark"] for row in csv.DictReader(lines)} - {"Avg"}
    assert {title for task in PAPER_TASKS.values() for title, _ in task.columns} == published


def test_names_that_are_refused(loader):
    with pytest.raises(InputError, match="twice"):
        loader.check(["piqa", "boolq", "piqa"])
    with pytest.raises(InputError, match="--allow-code-execution"):
        loader.check(["humaneval"])


@pytest.mark.slow
def test_an_unknown_name_gets_a_suggestion(loader):
    with pytest.raises(InputError, match=r"Unknown task 'hellaswg'\. Did you mean: hellaswag\?"):
        loader.check(["hellaswg"])


def test_no_folder(tmp_path):
    from sparsing.evaluation.tasks.loading import TaskLoader

    with pytest.raises(InputError, match="no folder"):
        TaskLoader(task_data=tmp_path / "none")


def test_no_items(tmp_path, lm_eval):
    from sparsing.evaluation.tasks.loading import TaskLoader

    loader = TaskLoader(task_data=tmp_path)
    with pytest.raises(InputError, match=r"no items for piqa in .*piqa \(validation\.jsonl, valid\.jsonl"):
        loader.load(loader.check(["piqa"])[0], 512)


def test_groups_become_their_parts(loader):
    (paper,) = loader.check(["mmlu"])
    task = loader.load(paper, 2048)
    assert len(task.parts) == 57
    assert task.num_items == 57 * 30
    assert {part.config.num_fewshot for part in task.parts} == {5}
    assert not task.absent


def test_other_languages_stand_in_for_english(loader, caplog):
    (paper,) = loader.check(["tydiqa"])
    with caplog.at_level(logging.WARNING, "sparsing"):
        task = loader.load(paper, 512)
    assert [part.task_name for part in task.parts] == [
        f"tydiqa_goldp_{code}" for code in ("ar", "fi", "id", "te")
    ]
    assert "no local items of tydiqa_goldp_en" in caplog.text


def test_answers_are_cut_to_what_a_short_model_holds(loader, caplog):
    (paper,) = loader.check(["bbh"])
    with caplog.at_level(logging.WARNING, "sparsing"):
        task = loader.load(paper, 512)
    assert {part.config.generation_kwargs["max_gen_toks"] for part in task.parts} == {256}
    assert "bbh: generates at most 256 tokens per item, because the model has 512 positions" in caplog.text
    task = loader.load(paper, 4096)
    assert {part.config.generation_kwargs["max_gen_toks"] for part in task.parts} == {1024}


def test_the_definition_is_that_of_lm_eval(loader):
    from pathlib import Path

    from lm_eval import tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    (paper,) = loader.check(["boolq"])
    (part,) = loader.load(paper, 512).parts
    own = load_yaml(Path(tasks.__file__).parent / "super_glue" / "boolq" / "default.yaml")
    assert part.config.doc_to_text == own["doc_to_text"]
    assert part.config.doc_to_choice == own["doc_to_choice"]


def test_code_tasks_get_the_sandboxed_metric(bench):
    from sparsing.evaluation.code.code_eval import CodeEval
    from sparsing.evaluation.tasks.loading import TaskLoader

    loader = TaskLoader(task_data=bench, allow_code_execution=True)
    for paper in loader.check(["humaneval", "mbpp"]):
        (part,) = loader.load(paper, 512).parts
        (metric,) = part._metric_fn_list.values()
        assert any(isinstance(held, CodeEval) for held in metric.__self__.__globals__.values())
