"""Times decoding on the CPU: blocks of the 0.8B and 2.4B shapes, and the whole 0.8B model.

    python benchmarks/decode.py ffn        # batch 1, ratios 0.02 to 1, three dtypes
    python benchmarks/decode.py batches    # batches 2, 4, 8 at three ratios
    python benchmarks/decode.py whole      # generate() of the 0.8B shape, float32 and bfloat16
    python benchmarks/decode.py tables     # benchmarks/results/decode-tables.md and the table of docs/benchmarks.md

Run it with nothing else running. All engines are timed in turn, but another process still slows some of them more than
others.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
from pathlib import Path

from sparsing.base.progress import Progress
from sparsing.bench.block_bench import BATCHES, BlockPlan, bench_blocks
from sparsing.bench.block_result import BlockBenchmark
from sparsing.bench.model_bench import ModelPlan, bench_planted_models
from sparsing.bench.model_result import ModelBenchmark
from sparsing.bench.shapes import SHAPES
from sparsing.report.charts.decode_charts import speedup_picture
from sparsing.report.decode_tables import ffn_tables, markdown, notes, whole_tables
from sparsing.report.measurement_tables import percent
from sparsing.report.static import draw
from sparsing.report.style import save_image

ROOT = Path(__file__).parent
RESULTS = ROOT / "results"
PAGE = ROOT.parent / "docs" / "benchmarks.md"
TABLES = RESULTS / "decode-tables.md"
BEGIN, END = "<!-- python benchmarks/decode.py tables -->", "<!-- end -->"
"""The marks around the table of conclusions on `PAGE`."""
PLANS = {
    "ffn": BlockPlan(batches=(1,)),
    "batches": BlockPlan(batches=(2, 4, 8), ratios=(0.065, 0.4, 1.0), bits=(4,)),
}
COMPARED_RATIOS = (0.065, 0.4)
COMPARED_ENGINES = ("sparse, exact", "4-bit predictor")
"""Activation ratios and engines of the table of conclusions."""
FFN_SHAPES, WHOLE_SHAPES = ("0.8B", "2.4B"), ("0.8B",)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("ffn", "batches", "whole", "tables"))
    part = parser.parse_args().part
    if part == "tables":
        write_tables()
        return
    if part == "whole":
        bench = bench_planted_models(
            [SHAPES[name] for name in WHOLE_SHAPES], ModelPlan(), progress=Progress()
        )
    else:
        bench = bench_blocks([SHAPES[name] for name in FFN_SHAPES], PLANS[part], progress=Progress())
    path = bench.save(RESULTS / f"decode-{part}-{datetime.date.today().isoformat()}.json")
    if isinstance(bench, BlockBenchmark):
        for batch in sorted({line.batch for line in bench.lines}):
            save_image(draw(speedup_picture(bench, batch)), RESULTS / f"decode-batch-{batch}.png")
    print(page_part(bench, path))
    print(f"written to {path.relative_to(ROOT.parent)}")


def write_tables() -> None:
    """Write all tables of the newest results to `TABLES`, and the table of conclusions to `PAGE`."""
    TABLES.write_text(all_tables(), encoding="utf-8")
    PAGE.write_text(with_conclusions(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"written: {TABLES.relative_to(ROOT.parent)}, {PAGE.relative_to(ROOT.parent)}")


def all_tables() -> str:
    """The text of `TABLES`."""
    head = "# All timings of decoding\n\n[docs/benchmarks.md](../../docs/benchmarks.md) explains method and columns.\n"
    results = [*((BlockBenchmark, part) for part in PLANS), (ModelBenchmark, "whole")]
    return "\n".join([head, *(page_part(kind.load(newest(part)), newest(part)) for kind, part in results)])


def with_conclusions(text: str) -> str:
    """The text of `PAGE` with the table of conclusions of the newest results between the marks."""
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    rows = [*block_conclusions(), *model_conclusions()]
    header = ["what is timed", "active", "sparse, exact", "with a 4-bit predictor"]
    return f"{before}{BEGIN}\n\n{markdown((header, rows))}\n\n{END}{after}"


def block_conclusions() -> list[list[str]]:
    """Speed-ups over the fastest dense engine: the range over shapes and dtypes, by batch and ratio."""
    lines = [line for part in PLANS for line in BlockBenchmark.load(newest(part)).lines]
    rows = []
    for batch, ratio in itertools.product(BATCHES, COMPARED_RATIOS):
        row = [f"one block, batch {batch}", percent(ratio, 1)]
        for name in COMPARED_ENGINES:
            wanted = (batch, ratio, name)
            found = [line.speedup for line in lines if (line.batch, line.ratio, line.name) == wanted]
            row.append(f"{min(found):.2f} to {max(found):.2f}")
        rows.append(row)
    return rows


def model_conclusions() -> list[list[str]]:
    """Speed-ups over the fastest dense engine, by shape, dtype and ratio."""
    rows = []
    for title, lines in ModelBenchmark.load(newest("whole")).groups().items():
        for ratio in COMPARED_RATIOS:
            # the fastest dense engine leaves the smallest speed-up
            speedups = {line.name: min(line.speedups.values()) for line in lines if line.ratio == ratio}
            over_dense = [f"{speedups[name]:.2f}" for name in COMPARED_ENGINES]
            rows.append([f"whole model in generate(), {title}, batch 1", percent(ratio, 1), *over_dense])
    return rows


def newest(part: str) -> Path:
    """The newest result of a part."""
    return sorted(RESULTS.glob(f"decode-{part}-*.json"))[-1]


def page_part(bench: BlockBenchmark | ModelBenchmark, path: Path) -> str:
    """The tables of one result in Markdown, below the file and the command that made them."""
    tables = ffn_tables(bench) if isinstance(bench, BlockBenchmark) else whole_tables(bench)
    lines = [f"From `benchmarks/results/{path.name}`, made by `{bench.provenance.command}`:", ""]
    lines += [f"- {note}" for note in notes(bench)]
    for title, rows in tables.items():
        lines += ["", f"**{title}**", "", markdown(rows)]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
