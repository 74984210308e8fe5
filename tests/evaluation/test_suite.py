"""The loop over tasks and levels: its scores are those of lm-eval, and it resumes after an interruption."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch

from sparsing.errors import InputError
from sparsing.evaluation.level import Level
from sparsing.evaluation.outcome import DENSE, TaskOutcome
from sparsing.evaluation.suite import choose_batch_size
from sparsing.rules.thresholds import Thresholds

from ..helpers.results import same

SIX = ["piqa", "copa", "boolq", "lambada", "gsm8k", "tydiqa"]


def definition(folder, name: str, include: str, files: dict[str, object], **fields):
    """A task definition on local files, written as lm-eval's documentation says."""
    from pathlib import Path

    from lm_eval import tasks

    wanted = {
        "include": str(Path(tasks.__file__).parent / include),
        "task": name,
        "dataset_path": "json",
        "dataset_name": None,
        "training_split": None,
        "dataset_kwargs": {"data_files": {split: str(path) for split, path in files.items()}},
        **fields,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(json.dumps(wanted))


def write_definitions(folder, bench, read_jsonl, gen_toks: int):
    boolq = read_jsonl(bench / "boolq" / "validation.jsonl")
    folder.mkdir(parents=True)
    local = folder / "boolq.jsonl"
    local.write_text("".join(json.dumps(row | {"label": int(row["answer"])}) + "\n" for row in boolq))
    generated = {"max_gen_toks": gen_toks, "do_sample": False}
    definition(folder, "piqa", "piqa/piqa.yaml", {"validation": bench / "piqa/validation.jsonl"})
    definition(
        folder, "winogrande", "winogrande/default.yaml", {"validation": bench / "winogrande/validation.jsonl"}
    )
    definition(folder, "boolq", "super_glue/boolq/default.yaml", {"validation": local})
    definition(
        folder, "lambada_openai", "lambada/lambada_openai.yaml", {"test": bench / "lambada/test_openai.jsonl"}
    )
    definition(
        folder,
        "gsm8k",
        "gsm8k/gsm8k.yaml",
        {"test": bench / "gsm8k/test.jsonl", "train": bench / "gsm8k/train_first2000.jsonl"},
        training_split="train",
        num_fewshot=8,
        generation_kwargs={"until": ["Question:", "</s>", "<|im_end|>"], **generated},
    )
    definition(
        folder,
        "tydiqa_goldp_fi",
        "tydiqa/tydiqa_goldp_fi.yaml",
        {"validation": bench / "tydiqa/goldp_from_tiny_dev.jsonl"},
        fewshot_split=None,
        generation_kwargs={"until": ["\n"], **generated},
    )


NAMES = ["piqa", "winogrande", "boolq", "lambada_openai", "gsm8k", "tydiqa_goldp_fi"]


def test_dense_scores_are_those_of_lm_eval(tmp_path, make_suite, stories, bench, read_jsonl):
    """Every metric of six tasks equals that of lm-eval's own model and task definitions to the last digit."""
    from lm_eval import simple_evaluate
    from lm_eval.api.metrics import mean_stderr
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    write_definitions(tmp_path / "tasks", bench, read_jsonl, gen_toks=8)
    manager = TaskManager(include_defaults=False, include_path=str(tmp_path / "tasks"))
    own = HFLM(pretrained=stories.model, tokenizer=stories.tokenizer, batch_size=4)
    wanted = {}
    for name in NAMES:  # one by one: together, lm-eval puts items of several tasks into one batch
        settings = {"tasks": [name], "task_manager": manager, "limit": 12, "bootstrap_iters": 0}
        wanted |= simple_evaluate(model=own, **settings)["results"]
    names = ["piqa", "winogrande", "boolq", "lambada", "gsm8k", "tydiqa"]
    suite, tasks = make_suite(tmp_path, names, limit=12, batch_size=4)
    suite.run(tasks, [Level(name=DENSE)])
    outcomes = [TaskOutcome.load(tmp_path / DENSE / f"{task.name}.json") for task in tasks]
    seen = {part.name: part.metrics for one in outcomes for part in one.parts if part.name in NAMES}
    assert set(seen) == set(NAMES)
    for name, metrics in seen.items():
        assert metrics == {key: wanted[name][key] for key in metrics}, name
    for score in (score for one in outcomes for score in one.scores):
        assert score.stderr == pytest.approx(mean_stderr(score.items.tolist()), abs=1e-15)


CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""A chat template whose turns are plain to see."""


def test_chat_templates_are_applied_as_lm_eval_does(
    tmp_path, make_suite, stories, bench, read_jsonl, monkeypatch
):
    """The scores of lm-eval with template, system message and examples as turns; they differ from plain prompts."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    with pytest.raises(InputError, match="has no chat template; leave out --chat-template"):
        make_suite(tmp_path, ["piqa"], chat_template=True)
    monkeypatch.setattr(stories.tokenizer, "chat_template", CHAT)
    write_definitions(tmp_path / "tasks", bench, read_jsonl, gen_toks=8)
    manager = TaskManager(include_defaults=False, include_path=str(tmp_path / "tasks"))
    own = HFLM(pretrained=stories.model, tokenizer=stories.tokenizer, batch_size=4)
    chat = {"apply_chat_template": True, "fewshot_as_multiturn": True, "system_instruction": "Tell a story."}
    settings = {"tasks": ["piqa"], "task_manager": manager, "limit": 8, "bootstrap_iters": 0}
    wanted = simple_evaluate(model=own, **settings, **chat)["samples"]
    results, prompts = {}, {}
    for label, options in (
        ("plain", {}),
        ("chat", {"chat_template": True, "system_instruction": "Tell a story."}),
    ):
        folder = tmp_path / label
        suite, tasks = make_suite(folder, ["piqa", "gsm8k"], limit=8, batch_size=4, log_items=True, **options)
        results[label] = suite.run(tasks, [Level(name=DENSE)])
        prompts[label] = [read_jsonl(folder / DENSE / f"{name}.items.jsonl") for name in ("piqa", "gsm8k")]
    for line, sample in zip(prompts["chat"][0], wanted["piqa"], strict=True):
        assert sample["arguments"][0][0].startswith("<system>Tell a story.\n<user>")
        assert line["arguments"][0][0] == sample["arguments"][0][0]
        assert line["filtered_resps"] == json.loads(json.dumps(sample["filtered_resps"]))
    assert prompts["chat"][1][0]["arguments"][0][0].count("<assistant>") == 9, (
        "eight examples are earlier turns"
    )
    saved = [TaskOutcome.load(tmp_path / "chat" / DENSE / f"{name}.json") for name in ("piqa", "gsm8k")]
    plain = [TaskOutcome.load(tmp_path / "plain" / DENSE / f"{name}.json") for name in ("piqa", "gsm8k")]
    assert [a.identity != b.identity for a, b in zip(saved, plain, strict=True)] == [True, True]
    assert results["chat"].chat_template
    assert results["chat"].system_instruction == "Tell a story."
    assert not results["plain"].chat_template


def test_sparse_is_paired_with_dense(tmp_path, make_suite, levels):
    suite, tasks = make_suite(tmp_path, ["piqa", "copa"], limit=20)
    table = suite.run(tasks, levels)
    dense, sparse = (TaskOutcome.load(tmp_path / level.slug / "piqa.json") for level in levels)
    change = sparse.scores[0].items.mean() - dense.scores[0].items.mean()
    row = table.rows[1]
    assert row.difference == pytest.approx(change)
    assert len(sparse.scores[0].items) == len(dense.scores[0].items) == row.num_items == 20
    assert not np.array_equal(sparse.scores[0].items, dense.scores[0].items) or change == 0
    assert 0.2 < row.prefill_activation_ratio < 0.7
    assert table.rows[0].prefill_activation_ratio is None


def test_resumes_in_the_third_task_of_six(tmp_path, make_suite, levels, monkeypatch):
    suite, tasks = make_suite(tmp_path / "whole", SIX, limit=2)
    whole = suite.run(tasks, levels)

    def interrupt(outcome):
        if (outcome.task, outcome.level) == ("boolq", DENSE):
            raise KeyboardInterrupt

    suite, tasks = make_suite(tmp_path / "cut", SIX, limit=2)
    with pytest.raises(KeyboardInterrupt):
        suite.run(tasks, levels, on_done=interrupt)
    suite, tasks = make_suite(tmp_path / "cut", SIX, limit=2)
    ran = []
    evaluate = suite._evaluate
    monkeypatch.setattr(
        suite,
        "_evaluate",
        lambda task, level: ran.append((task.paper.name, level.name)) or evaluate(task, level),
    )
    resumed = suite.run(tasks, levels)
    assert ran == [(name, level.name) for name in SIX for level in levels][5:]
    for one, other in zip(resumed.rows, whole.rows, strict=True):
        assert {**one.to_dict(), "wall_sec": 0} == {**other.to_dict(), "wall_sec": 0}


def test_chance_and_the_changes_of_groups_are_in_the_table(tmp_path, make_suite, levels):
    suite, tasks = make_suite(tmp_path, ["piqa", "copa", "lambada"], limit=3)
    table = suite.run(tasks, levels)
    assert {row.title: row.chance for row in table.rows} == {"PIQA": 0.5, "COPA": 0.5, "LAMBADA": None}
    names = [(change.group, change.num_scores) for change in table.changes]
    assert names == [("commonsense", 2), ("reading", 1), ("all", 3)]
    moved = [row.difference for row in table.rows if row.level != DENSE]
    assert table.changes[-1].difference == pytest.approx(np.mean(moved))


def test_changed_settings_are_run_anew(tmp_path, make_suite, levels, sparse_level):
    suite, tasks = make_suite(tmp_path, ["copa"], limit=4)
    suite.run(tasks, levels)
    identity = [TaskOutcome.load(tmp_path / level.slug / "copa.json").identity for level in levels]
    assert len(set(identity)) == 2
    suite, tasks = make_suite(tmp_path, ["copa"], limit=5)
    assert [row.num_items for row in suite.run(tasks, levels).rows] == [5, 5]
    other = Thresholds(rule="cett", level=0.5, on="neuron_norm", values=(0.3,) * 5)
    before = TaskOutcome.load(tmp_path / sparse_level.slug / "copa.json")
    suite.run(tasks, [levels[0], Level(name=sparse_level.name, thresholds=other)])
    assert TaskOutcome.load(tmp_path / sparse_level.slug / "copa.json").prefill != before.prefill


def test_a_model_with_permuted_rows_is_evaluated_anew(tmp_path, make_suite, levels, stories, caplog):
    """The sums of the weights are equal, so a digest of sums would give the scores of the other model."""
    suite, tasks = make_suite(tmp_path / "run", ["copa"], limit=12)
    before = suite.run(tasks, levels[:1])
    weight = stories.model.model.layers[-1].mlp.down_proj.weight
    rows = weight.detach().clone()
    with torch.no_grad():
        weight.copy_(rows.flip(0))
    try:
        again = make_suite(tmp_path / "run", ["copa"], limit=12)[0].run(tasks, levels[:1])
        fresh = make_suite(tmp_path / "fresh", ["copa"], limit=12)[0].run(tasks, levels[:1])
    finally:
        with torch.no_grad():
            weight.copy_(rows)
    assert "since these have changed: model weights" in caplog.text
    saved = [TaskOutcome.load(tmp_path / name / "dense" / "copa.json") for name in ("run", "fresh")]
    assert same(saved[0].scores, saved[1].scores)
    assert [row.score for row in again.rows] == [row.score for row in fresh.rows]
    assert [row.score for row in again.rows] != [row.score for row in before.rows]


def test_generated_programs_are_counted_as_failed_and_the_run_goes_on(tmp_path, make_suite, monkeypatch):
    """The model writes programs that fork, fill the disk, open a connection and read the home folder."""
    programs = iter(
        [
            "import os\nwhile True: os.fork()\n",
            "import os\nf = open('x', 'wb')\nwhile True: f.write(bytes(1 << 20))\n",
            "import socket\nsocket.create_connection(('127.0.0.1', 22))\n",
            "import os\nos.listdir(os.path.expanduser('~root'))\n",
        ]
    )
    suite, tasks = make_suite(tmp_path, ["mbpp", "copa"], allow_code_execution=True, limit=4)
    monkeypatch.setattr(suite.lm, "generate_until", lambda requests, **_: [next(programs) for _ in requests])
    table = suite.run(tasks, [Level(name=DENSE)])
    assert [(row.task, row.num_items) for row in table.rows] == [("mbpp", 4), ("copa", 4)]
    outcome = TaskOutcome.load(tmp_path / DENSE / "mbpp.json")
    assert outcome.scores[0].items.tolist() == [0, 0, 0, 0]
    assert outcome.shots == 3


def test_the_right_programs_pass(tmp_path, make_suite, monkeypatch, bench, read_jsonl):
    rows = read_jsonl(bench / "humaneval" / "HumanEval.jsonl")
    solutions = {row["prompt"]: row["canonical_solution"] for row in rows}
    suite, tasks = make_suite(tmp_path, ["humaneval"], allow_code_execution=True, limit=5)
    monkeypatch.setattr(
        suite.lm, "generate_until", lambda requests, **_: [solutions[one.args[0]] for one in requests]
    )
    (row,) = suite.run(tasks, [Level(name=DENSE)]).rows
    assert row.score == 1.0


def test_items_are_logged(tmp_path, make_suite, read_jsonl):
    suite, tasks = make_suite(tmp_path, ["copa"], limit=3, log_items=True)
    suite.run(tasks, [Level(name=DENSE)])
    lines = read_jsonl(tmp_path / DENSE / "copa.items.jsonl")
    assert [line["doc_id"] for line in lines] == [0, 1, 2]
    assert lines[0]["arguments"][0][0].startswith("The man turned on the faucet")


def test_settings_that_are_refused(tmp_path, make_suite, levels):
    suite, tasks = make_suite(tmp_path, ["copa"])
    with pytest.raises(InputError, match="two levels are called 'dense'"):
        suite.run(tasks, [levels[0], levels[0]])
    with pytest.raises(InputError, match="2 thresholds for a model of 5"):
        suite.run(tasks, [Level(name="x", thresholds=Thresholds.from_line("1,2"))])
    with pytest.raises(InputError, match="--limit"):
        make_suite(tmp_path, ["copa"], limit=0)
    with pytest.raises(InputError, match="--batch-size"):
        make_suite(tmp_path, ["copa"], batch_size="many")


def test_batch_size_by_default(tmp_path, make_suite, stories):
    assert choose_batch_size(stories, 512) == 16
    assert choose_batch_size(stories, 2**20) == 1
    suite, tasks = make_suite(tmp_path, ["copa"], limit=4, batch_size="auto")
    suite.lm.max_batch_size = 2
    (row,) = suite.run(tasks, [Level(name=DENSE)]).rows
    assert row.num_items == 4


def test_a_warning_about_float16_on_a_cpu(tmp_path, make_suite, stories_folder, caplog):
    from sparsing.evaluation.suite import Suite
    from sparsing.models.loading import load_model

    suite, _ = make_suite(tmp_path, ["copa"])
    assert "float16" not in caplog.text
    Suite(load_model(stories_folder, device="cpu", dtype="float16"), suite.loader, folder=tmp_path)
    assert "--dtype float32" in caplog.text


def test_lm_evals_log_comes_back(tmp_path, make_suite, caplog):
    harness = logging.getLogger("lm_eval")
    level = harness.level
    suite, tasks = make_suite(tmp_path, ["copa"], limit=2)
    suite.run(tasks, [Level(name=DENSE)])
    assert harness.level == level
