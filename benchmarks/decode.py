"""Times decoding on the CPU: blocks of the 0.8B and 2.4B shapes, and the whole 0.8B model.

    python benchmarks/decode.py ffn        # batch 1, ratios 0.02 to 1, three dtypes
    python benchmarks/decode.py batches    # batches 2, 4, 8 at three ratios
    python benchmarks/decode.py whole      # generate() of the 0.8B shape, float32 and bfloat16
    python benchmarks/decode.py tables     # the tables of docs/benchmarks.md, from the newest results

Run it with nothing else running. All engines are timed in turn, but another process still slows some of them more than
others.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

from sparsing.base.progress import Progress
from sparsing.bench.block_bench import BlockPlan, bench_blocks
from sparsing.bench.block_result import BlockBenchmark
from sparsing.bench.model_bench import ModelPlan, bench_planted_models
from sparsing.bench.model_result import ModelBenchmark
from sparsing.bench.shapes import SHAPES
from sparsing.report.charts.decode_charts import speedup_picture
from sparsing.report.decode_tables import ffn_tables, markdown, notes, whole_tables
from sparsing.report.static import draw
from sparsing.report.style import save_image

ROOT = Path(__file__).parent
RESULTS = ROOT / "results"
PAGE = ROOT.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- tables: python benchmarks/decode.py tables -->", "<!-- end of tables -->"
PLANS = {
    "ffn": BlockPlan(batches=(1,)),
    "batches": BlockPlan(batches=(2, 4, 8), ratios=(0.065, 0.4, 1.0), bits=(4,)),
}
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
    """Replace the tables between the two marks of `docs/benchmarks.md` by those of the newest results."""
    parts = []
    for part, kind in (("ffn", BlockBenchmark), ("batches", BlockBenchmark), ("whole", ModelBenchmark)):
        for path in sorted(RESULTS.glob(f"decode-{part}-*.json"))[-1:]:
            parts.append(page_part(kind.load(path), path))
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    tables = "\n".join(parts)  # Python 3.11 takes no backslash inside an f-string's braces
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables}\n{END}{after}", encoding="utf-8")
    print(f"{len(parts)} results written to {PAGE.relative_to(ROOT.parent)}")


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
