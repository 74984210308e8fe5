"""The command that installs an extra works in the environment in which it is printed."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from sparsing.base import extras

ROOT = Path(__file__).resolve().parents[2]


def test_an_installed_package_is_named(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: "0.1.0")
    monkeypatch.setattr(extras.shutil, "which", lambda name: str(Path(sys.executable).parent / "pip"))
    assert extras.install_command("cpu") == "pip install 'sparsing[cpu]'"


def test_a_clone_that_is_not_installed_is_named_by_its_folder(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "version", missing)
    assert extras.install_command("cpu").endswith(f"install '{ROOT}[cpu]'")


def test_the_pip_of_another_python_is_not_named(monkeypatch):
    monkeypatch.setattr(extras.shutil, "which", lambda name: "/usr/elsewhere/pip")
    assert extras.install_command("cpu").startswith(f"{sys.executable} -m pip install ")


def test_every_extra_that_a_message_names_exists():
    known = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "tests").rglob("*.py")]
    named = {
        extra
        for page in [*pages, *(ROOT / "src").rglob("*.py")]
        for extra in re.findall(
            r"(?:sparsing|'\.)\[(\w+)\]|install_command\('(\w+)'\)", page.read_text("utf-8")
        )
        for extra in extra
        if extra
    }
    assert {"cpu", "eval", "gguf"} <= named <= set(known)


def test_the_page_lists_every_extra_with_its_packages():
    known = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    packages = {name: {re.match(r"[\w-]+", line)[0] for line in lines} for name, lines in known.items()}
    table = re.findall(
        r"^\| `(\w+)` \| (.*?) \|", (ROOT / "docs" / "install.md").read_text("utf-8"), re.MULTILINE
    )
    listed = {name: set(cell.replace(" (Linux)", "").split(", ")) for name, cell in table}
    assert listed == {name: names for name, names in packages.items() if name != "dev"}


@pytest.mark.slow
@pytest.mark.network
def test_pip_keeps_the_installed_package_and_adds_the_extra(tmp_path):
    """`pip install 'sparsing[...]'` needs no index that knows the package once it is installed from a clone."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", ROOT], check=True)
    dry = [python, "-m", "pip", "install", "--dry-run", "--no-deps", "sparsing[cpu]"]
    done = subprocess.run(dry, capture_output=True, text=True, check=True)
    assert "Requirement already satisfied: sparsing[cpu]" in done.stdout
