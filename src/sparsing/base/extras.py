"""Commands that install optional packages, for messages that name a missing package."""

from __future__ import annotations

import shlex
import shutil
import sys
from importlib import metadata
from pathlib import Path

_CLONE = Path(__file__).resolve().parents[3]
"""The root of the repository, if the package runs from a clone."""


def install_command(extra: str) -> str:
    """The command that installs an extra of this package, e.g. `pip install 'sparsing[cpu]'`.

    An installed package is named: pip then keeps it and adds the packages of the extra, also if it was installed from a
    clone. A package that runs from a clone without installation is installed from there.
    """
    package = "sparsing"
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        package = f"{_CLONE}" if (_CLONE / "pyproject.toml").is_file() else package
    return f"{_pip()} install {shlex.quote(f'{package}[{extra}]')}"


def _pip() -> str:
    """pip of the Python that runs; the `pip` of the shell may belong to another Python."""
    found = shutil.which("pip")
    if found and Path(found).parent == Path(sys.executable).parent:
        return "pip"
    return f"{shlex.quote(sys.executable)} -m pip"
