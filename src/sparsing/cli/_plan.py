"""The option `--plan` of `measure` and `sweep`: what the work would cost, before any weights are read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsing.cli import _common as common

if TYPE_CHECKING:
    from sparsing.rules import Rule
    from sparsing.scale.plan import Plan

HERE = "here"
"""The name of the machine that the command runs on."""


def plan_of(args: argparse.Namespace, jobs: Sequence[tuple[Rule | None, dict]]) -> Plan:
    """The cost of `sparsing measure` with these options.

    Raises:
        InputError: If the machine is unknown, or the model or the text is not found.
    """
    from sparsing.measuring.cost import usual_passes
    from sparsing.models.outline import read_outline
    from sparsing.scale.machines import MACHINES
    from sparsing.scale.plan import plan_here, plan_measurement

    machine = None if args.plan == HERE else MACHINES[args.plan]
    common.refuse_without_effect(args, ["adapter", "cett_from"], "with --plan")
    if machine is None:
        common.refuse_without_effect(
            args, ["device"], "with --plan, which times the CPU; name a machine, e.g. h100"
        )
    outline = read_outline(
        args.model,
        revision=args.revision,
        trust_remote_code=args.trust_remote_code,
        tokenizer=args.tokenizer,
        dtype=args.dtype,
    )
    corpus, heldout = common.read_text(args, outline)
    searches = sum("ppl_ratio" in asked for _, asked in jobs)
    passes = usual_passes(
        num_tokens=corpus.num_tokens,
        searches=searches,
        levels=len(jobs) - searches,
        half_precision=outline.dtype in ("bfloat16", "float16"),
        holdout=heldout.num_tokens / corpus.num_tokens if heldout else 0,
    )
    if machine is None:
        return plan_here(outline, corpus, passes)
    return plan_measurement(outline, corpus.num_tokens, corpus.width, passes, machine)


def print_plans(plans: Sequence[Plan], *, as_json: bool) -> None:
    """Prints a table with a row per plan and the sum of the hours, or JSON."""
    if as_json:
        common.print_json(plans if len(plans) > 1 else plans[0])
        return
    rows = [
        [
            plan.model,
            plan.dtype,
            f"{plan.num_parameters / 1e9:,.2f}B",
            f"{plan.num_tokens:,}",
            f"{plan.passes:.1f}",
            f"{plan.flops:.2g}",
            f"{plan.weight_bytes / 1e9:,.0f}",
            f"{plan.memory_gb:,.1f}",
            f"{plan.processes} x {plan.devices_per_process}",
            plan.limit,
            _time(plan.hours),
        ]
        for plan in plans
    ]
    header = (
        *("model", "dtype", "parameters", "tokens", "passes", "FLOPs", "GB read", "GB of memory"),
        *("processes x devices", "limited by", "time"),
    )
    common.print_table(f"plan for {plans[0].machine}", header, rows)
    if len(plans) > 1:
        print(f"together: {_time(sum(plan.hours for plan in plans))}")


def _time(hours: float) -> str:
    from sparsing.base.progress import duration

    return "under 1 s" if hours * 3600 < 1 else duration(hours * 3600)
