"""Feeds damaged files to every reader of the package and prints the errors that are not errors of the package.

python scripts/fuzz.py --count 1000000 --seed 1
"""

from __future__ import annotations

import argparse
import collections
import random
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.helpers.fuzz import damaged, problem, readers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="files in all (default: 100000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the damage (default: 0)")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    generator, begin = random.Random(args.seed), time.perf_counter()
    found: collections.Counter[str] = collections.Counter()
    table = readers()
    names = sorted(table)
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as folder:
        for number in range(args.count):
            name = names[number % len(names)]
            file, content, read = table[name]
            place = Path(folder) / name.replace(" ", "-")
            place.mkdir(exist_ok=True)
            if text := problem(name, file, damaged(content, generator), read, place):
                found[text] += 1
    seconds = time.perf_counter() - begin
    print(f"{args.count:,} files, {len(names)} readers, seed {args.seed}, {seconds:.0f} s")
    for text, count in found.most_common():
        print(f"{count:8,}  {text}")
    print(f"{len(found)} kinds of unexpected errors")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
