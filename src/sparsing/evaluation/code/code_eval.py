"""The metric pass@k of generated programs, each run in the sandbox.

lm-eval's code tasks fetch their metric from the hub with `evaluate.load("code_eval")` when their helper modules are
imported. That metric runs programs without confinement. `sandboxed_code_eval` answers the call while tasks are
loaded, so lm-eval's task definitions run unchanged and offline, and every program runs in the sandbox.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

from sparsing.errors import InputError
from sparsing.evaluation.code.sandbox import check_sandbox, run_program
from sparsing.evaluation.model.lm_eval_internals import metric_functions


class CodeEval:
    """A replacement for the hub's metric `code_eval` with the same interface."""

    allowed = False
    """Whether the caller has allowed generated programs to run."""
    loading = False
    """True while tasks are loaded. Their helper modules call the metric once on import and ignore the answer."""

    def compute(
        self,
        *,
        references: Sequence[str],
        predictions: Sequence[Sequence[str]],
        k: Sequence[int] = (1, 10, 100),
        **_: Any,
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
        """Run the programs of some problems and score them.

        pass@k = 1 - C(n - c, k) / C(n, k) for `c` of `n` programs that pass (Chen et al. 2021, eq. 1).

        Args:
            references: The test of each problem, as source code.
            predictions: The programs for each problem.
            k: Sizes of the sample; a size above the number of programs of a problem is left out.

        Returns: The mean of pass@k over problems, and how each program ended, in the form of the hub's metric.

        Raises:
            InputError: if running generated programs has not been allowed.
        """
        if self.loading:
            return {}, {}
        if not self.allowed:
            raise InputError("running generated code is off; allow it with --allow-code-execution")
        results: dict[int, list[tuple[int, dict[str, Any]]]] = {}
        for problem, (test, programs) in enumerate(zip(references, predictions, strict=True)):
            ends = [run_program(f"{program}\n{test}") for program in programs]
            results[problem] = [
                (i, {"task_id": problem, "completion_id": i, "passed": end.passed, "result": end.reason})
                for i, end in enumerate(ends)
            ]
        counts = [(len(ends), sum(end["passed"] for _, end in ends)) for ends in results.values()]
        scores = {
            f"pass@{n}": sum(pass_at_k(total, correct, n) for total, correct in counts) / len(counts)
            for n in k
            if all(total >= n for total, _ in counts)
        }
        return scores, results


def pass_at_k(total: int, correct: int, k: int) -> float:
    """The probability that at least one of `k` programs passes, drawn from `total` of which `correct` pass."""
    return 1 - math.comb(total - correct, k) / math.comb(total, k)


_CODE_EVAL = CodeEval()
"""The one metric of this process. Helper modules of tasks are imported once and keep the metric that they got."""


@contextlib.contextmanager
def sandboxed_code_eval(allowed: bool) -> Iterator[None]:
    """Inside the block, in which tasks are loaded, `evaluate.load("code_eval")` returns the sandboxed metric.

    Args:
        allowed: Whether the metric may run programs, also after the block.
    """
    import evaluate

    original = evaluate.load

    def load(path: str, *args: Any, **kwargs: Any) -> Any:
        return _CODE_EVAL if path == "code_eval" else original(path, *args, **kwargs)

    evaluate.load, _CODE_EVAL.loading, _CODE_EVAL.allowed = load, True, allowed
    try:
        yield
    finally:
        evaluate.load, _CODE_EVAL.loading = original, False


def check_sandboxed(task: Any) -> None:
    """Check that a task runs generated code in the sandbox, and that the sandbox works.

    Raises:
        InputError: if the task runs generated code by other means than the sandboxed metric.
        SparsityError: if this system cannot confine a program.
    """
    for function in metric_functions(task):
        # The helper module of a task keeps the metric in a global variable.
        values = getattr(function, "__globals__", {}).values()
        if not any(isinstance(value, CodeEval) for value in values):
            raise InputError(
                f"{task.config.task} runs generated code by its own means, which this package does not confine; on a"
                " machine where that is safe, run it with"
                " sparsing lm-eval run --model sparsing --confirm_run_unsafe_code"
            )
    check_sandbox()
