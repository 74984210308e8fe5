"""Compares the saved results of two runs, to the last digit: python scripts/compare_results.py BEFORE AFTER

Every JSON and safetensors file below BEFORE is compared with the file of the same path below AFTER. Left out are
times, costs, provenance, kinds and schema versions. Values by position (schema 1) equal values by site name.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

LEFT_OUT = {"provenance", "cost", "kind", "schema_version", "sites", "seconds", "wall_sec", "created"}
"""Fields that differ between any two runs, and the names of sites, which schema 1 did not have."""


def differences(before: Any, after: Any, at: str = "") -> list[str]:
    """Paths at which two JSON values differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        # fields that only the newer version knows are no difference
        names = [name for name in before if name not in LEFT_OUT]
        return [line for name in names for line in differences(before[name], after.get(name), f"{at}.{name}")]
    if isinstance(before, list):
        values = list(after.values()) if isinstance(after, dict) else after
        if not isinstance(values, list) or len(values) != len(before):
            return [f"{at}: {before!r:.60} and {after!r:.60}"]
        return [
            line
            for i, pair in enumerate(zip(before, values, strict=True))
            for line in differences(*pair, f"{at}[{i}]")
        ]
    return [] if before == after else [f"{at}: {before!r:.60} and {after!r:.60}"]


def array_differences(before: Path, after: Path) -> list[str]:
    """Names of arrays of two safetensors files that differ in a bit."""
    old, new = load_file(before), load_file(after)
    return [
        f"{name}: arrays differ"
        for name, array in old.items()
        if name not in new or array.tobytes() != np.ascontiguousarray(new[name]).tobytes()
    ]


def main(before: Path, after: Path) -> int:
    """Print every difference; 1 if there is one."""
    files = sorted(p for p in before.rglob("*") if p.suffix in (".json", ".safetensors"))
    count = 0
    for file in files:
        other = after / file.relative_to(before)
        if not other.exists():
            lines = ["is missing"]
        elif file.suffix == ".json":
            lines = differences(json.loads(file.read_text()), json.loads(other.read_text()))
        else:
            lines = array_differences(file, other)
        count += len(lines)
        for line in lines:
            print(f"{file.relative_to(before)} {line}")
    print(f"{len(files)} files compared, {count} differences")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
