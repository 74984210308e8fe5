"""Items from files as the benchmarks publish them, with the columns that lm-eval expects."""

from __future__ import annotations

import gzip
import json
import tracemalloc

import pytest

from sparsing.errors import InputError
from sparsing.evaluation.tasks import local_data
from sparsing.evaluation.tasks.local_data import describe_places, read_items

COUNTS = {
    "piqa": {"validation": 1838},
    "social_iqa": {"validation": 1954},
    "hellaswag": {"validation": 1000},
    "winogrande": {"validation": 1267},
    "copa": {"validation": 100},
    "boolq": {"validation": 3270},
    "lambada_openai": {"test": 5153},
    "agieval_logiqa_zh": {"test": 651},
    "agieval_sat_en_without_passage": {"test": 206},
    "humaneval": {"test": 164},
    "mbpp": {"test": 500},
    "gsm8k": {"train": 2000, "test": 1319},
    "mmlu_high_school_physics": {"test": 30, "dev": 5},
    "bbh_cot_fewshot_boolean_expressions": {"test": 250},
    "tydiqa_goldp_fi": {"validation": 1},
    "tydiqa_goldp_en": {"validation": 0},
}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize("task", COUNTS)
def test_counts_are_those_of_the_files(bench, task):
    found = read_items(bench, task, ["train", "validation", "test", "dev"])
    assert {split: len(rows) for split, rows in found.items()} == COUNTS[task]


@pytest.mark.parametrize("name", ["aqua-rat", "sat-math", "lsat-ar"])
def test_agieval_prompts_are_those_of_the_hub(bench, name):
    lines = (bench / "agieval" / "lmeval" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    made = read_items(bench, f"agieval_{name.replace('-', '_')}", ["test"])["test"]
    assert made == [json.loads(line) for line in lines]


def test_agieval_in_chinese_and_with_several_right_options(tmp_path):
    row = {"passage": None, "question": "q", "options": ["(A)1", "(B)2"], "label": ["A", "B"], "answer": None}
    write(tmp_path / "agieval" / "v1" / "jec-qa-kd.jsonl", [row])
    (made,) = read_items(tmp_path, "agieval_jec_qa_kd", ["test"])["test"]
    assert made["query"] == "问题\uff1aq 选项\uff1a(A)1 (B)2\n答案\uff1a从A到B, 我们应选择"
    assert made["gold"] == [0, 1]


def test_agieval_without_options_has_an_answer(tmp_path):
    row = {"passage": "P. ", "question": "q", "options": None, "label": None, "answer": 3}
    write(tmp_path / "agieval" / "v1" / "math.jsonl", [row])
    assert read_items(tmp_path, "agieval_math", ["test"])["test"] == [
        {"query": "P. Q: q\nA: The answer is", "answer": "3"}
    ]


def test_boolq_has_a_label_in_either_form(tmp_path):
    write(
        tmp_path / "boolq" / "dev.jsonl", [{"question": "q", "answer": True}, {"question": "q", "label": 0}]
    )
    assert [row["label"] for row in read_items(tmp_path, "boolq", ["validation"])["validation"]] == [1, 0]


def test_labels_in_a_file_beside(tmp_path):
    write(tmp_path / "piqa" / "valid.jsonl", [{"goal": "a"}, {"goal": "b"}])
    (tmp_path / "piqa" / "valid-labels.lst").write_text("1\n0\n")
    assert [row["label"] for row in read_items(tmp_path, "piqa", ["validation"])["validation"]] == [1, 0]
    (tmp_path / "piqa" / "valid-labels.lst").write_text("1\n")
    with pytest.raises(InputError, match="1 labels for 2 items"):
        read_items(tmp_path, "piqa", ["validation"])


def test_tydiqa_as_published(tmp_path):
    def question(name):
        return {"id": name, "question": "q", "answers": [{"text": "t", "answer_start": 2}]}

    paragraph = {"context": "c", "qas": [question("english-1"), question("finnish-1")]}
    path = tmp_path / "tydiqa" / "tydiqa-goldp-v1.1-dev.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"data": [{"title": "T", "paragraphs": [paragraph]}]}))
    (row,) = read_items(tmp_path, "tydiqa_goldp_en", ["validation"])["validation"]
    assert row["id"] == "english-1"
    assert row["answers"] == {"text": ["t"], "answer_start": [2]}


def test_bbh_as_published(tmp_path):
    path = tmp_path / "bbh" / "bbh" / "navigate.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"canary": "c", "examples": [{"input": "i", "target": "Yes"}]}))
    for task in ("bbh_cot_fewshot_navigate", "bbh_zeroshot_navigate"):
        assert read_items(tmp_path, task, ["test"])["test"] == [{"input": "i", "target": "Yes"}]


def test_mmlu_as_published(tmp_path):
    path = tmp_path / "mmlu" / "data" / "test" / "anatomy_test.csv"
    path.parent.mkdir(parents=True)
    path.write_text('"what, \n then?",a,b,c,d,C\n')
    assert read_items(tmp_path, "mmlu_anatomy", ["test"])["test"] == [
        {"question": "what, \n then?", "choices": ["a", "b", "c", "d"], "answer": 2}
    ]


def test_compressed_and_with_line_separators_in_the_text(tmp_path):
    path = tmp_path / "humaneval" / "HumanEval.jsonl.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress('{"prompt": "a\u2028b"}\n'.encode()))
    assert read_items(tmp_path, "humaneval", ["test"])["test"] == [{"prompt": "a\u2028b"}]


def test_any_other_task_by_its_splits(tmp_path):
    write(tmp_path / "arc_easy" / "test.jsonl", [{"question": "q"}])
    assert read_items(tmp_path, "arc_easy", ["test", "train"]) == {"test": [{"question": "q"}]}
    assert "arc_easy (test.jsonl)" in describe_places(tmp_path, "arc_easy", "test")


def test_a_broken_file_is_named(tmp_path):
    path = tmp_path / "copa" / "val.jsonl"
    path.parent.mkdir()
    path.write_text("{}\nnot json\n")
    with pytest.raises(InputError, match=r"val\.jsonl"):
        read_items(tmp_path, "copa", ["validation"])


def test_a_compressed_bomb_is_read_up_to_the_limit_only(tmp_path, monkeypatch):
    monkeypatch.setattr(local_data, "_MAX_BYTES", 100_000)
    path = tmp_path / "humaneval" / "HumanEval.jsonl.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(bytes(50_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="more than 100,000 bytes"):
            read_items(tmp_path, "humaneval", ["test"])
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
