"""pass@k of generated programs, each run in the sandbox, in place of the hub's unconfined `code_eval`.

lm-eval's code tasks fetch their metric with `evaluate.load("code_eval")` when their helpers are imported.
`sandboxed_code_eval` answers that call while tasks are loaded, so the harness's own definitions run unchanged,
offline, and no generated program runs outside the sandbox.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

from sparsing.errors import InputError
from sparsing.evaluation.code.sandbox import run_program


class CodeEval:
    """What the harness takes for the metric `code_eval`."""

    allowed = False
    """Whether the caller has allowed generated programs to run."""
    loading = False
    """True while tasks are loaded: helpers make a trial on import, which needs no answer."""

    def compute(
        self,
        *,
        references: Sequence[str],
        predictions: Sequence[Sequence[str]],
        k: Sequence[int] = (1, 10, 100),
        **_: Any,
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
        """Mean of pass@k over problems, and how each program ended.

        pass@k = 1 - C(n - c, k) / C(n, k) for `c` of `n` programs that pass (Chen et al. 2021, eq. 1).

        Raises:
            InputError: running generated programs has not been allowed.
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
    """Chance that one of `k` programs drawn from `total`, of which `correct` pass, passes."""
    return 1 - math.comb(total - correct, k) / math.comb(total, k)


_CODE_EVAL = CodeEval()
"""One for the process: helpers of tasks are imported once and keep what they got."""


@contextlib.contextmanager
def sandboxed_code_eval(allowed: bool) -> Iterator[None]:
    """Inside the block, in which tasks are loaded, `evaluate.load("code_eval")` gives the sandboxed metric."""
    import evaluate  # pyright: ignore[reportMissingImports]

    original = evaluate.load

    def load(path: str, *args: Any, **kwargs: Any) -> Any:
        return _CODE_EVAL if path == "code_eval" else original(path, *args, **kwargs)

    evaluate.load, _CODE_EVAL.loading, _CODE_EVAL.allowed = load, True, allowed
    try:
        yield
    finally:
        evaluate.load, _CODE_EVAL.loading = original, False


def check_sandboxed(task: Any) -> None:
    """Raise InputError for a task that runs generated code by other means than the sandboxed metric."""
    for metric in task._metric_fn_list.values():
        function = getattr(metric, "__self__", metric)  # the harness keeps the bound `__call__` of a function
        held = getattr(function, "__globals__", {}).values()
        if not any(isinstance(one, CodeEval) for one in held):
            raise InputError(
                f"{task.config.task} runs generated code by its own means, which are not confined here; run it"
                " with lm_eval --model sparsing --confirm_run_unsafe_code where that is safe"
            )
