"""Compiles every kernel of a block for a kind of GPU, without having one; prints the registers and memory, as JSON.

    python compile_kernels.py 90 bfloat16 4096 14336

A separate script, because a process either compiles all functions of Triton or interprets them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sparsing.decode.kernels.cuts import no_cuts
from sparsing.decode.kernels.gpu.block import TritonFFN
from sparsing.decode.kernels.gpu.launches import Launch
from sparsing.decode.kernels.modes import SkipMode
from sparsing.decode.kernels.packing import PackedFFN
from sparsing.decode.predict.quantised import LayerPredictor

TYPES = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int8: "*i8",
    torch.uint8: "*u8",
}
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


def main(capability: int, dtype: torch.dtype, d_model: int, d_ff: int) -> None:
    weights = torch.empty(d_ff, d_model, dtype=dtype)
    packed = PackedFFN(gate=weights, up=weights, down=weights, act="silu")
    exact = TritonFFN(packed, no_cuts(d_ff))
    calls = [(exact, SkipMode.DENSE), (exact, SkipMode.ALL), (exact, SkipMode.BY_GATE)]
    for bits in (4, 8):
        block = TritonFFN(packed, no_cuts(d_ff), _predictor(d_model, d_ff, bits))
        calls.append((block, SkipMode.PREDICTED))
    results = []
    for tokens in (1, 8):
        x = torch.empty(tokens, d_model, dtype=dtype)
        for block, mode in calls:
            for launch in block.launches(x, torch.empty_like(x), mode):
                results.append(_compiled(launch, capability) | {"tokens": tokens, "mode": mode.value})
    sys.stdout.write(json.dumps(results))


def _predictor(d_model: int, d_ff: int, bits: int) -> LayerPredictor:
    groups = triton.cdiv(d_model, 128)
    codes = torch.empty(d_ff, groups * 16 * bits, dtype=torch.uint8)
    scales = torch.empty(d_ff, groups, dtype=torch.bfloat16)
    return LayerPredictor(
        bits=bits,
        recall=1.0,
        gate_codes=codes,
        gate_scales=scales,
        up_codes=codes,
        up_scales=scales,
        cuts=torch.empty(d_ff),
    )


def _compiled(launch: Launch, capability: int) -> dict:
    target = GPUTarget("cuda", capability, 32)
    kernel = triton.compile(_source(launch), target=target, options=launch.options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.check_output([TOOLS / "cuobjdump", "-res-usage", file.name], text=True)
    figures = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", usage))
    return {
        "kernel": launch.kernel.__name__,
        "registers": int(figures["REG"]),
        "stack_bytes": int(figures["STACK"]),
        "shared_bytes": kernel.metadata.shared,
        "narrow_loads": len(re.findall(r"ld\.global\.(?:b8|b16)\b", kernel.asm["ptx"])),
    }


def _source(launch: Launch) -> ASTSource:
    """The source as Triton specialises it for the launch: None and 1 are constants, pointers are multiples of 16."""
    signature, constants, attributes = {}, {}, {}
    for index, name in enumerate(launch.kernel.arg_names):
        value = launch.sizes.get(name, launch.args.get(name))
        if name in launch.sizes or value is None or (isinstance(value, int) and value == 1):
            signature[name], constants[(index,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name], attributes[(index,)] = TYPES[value.dtype], [["tt.divisibility", 16]]
        else:
            signature[name] = "i32" if isinstance(value, int) else "fp32"
    return ASTSource(launch.kernel, signature, constants, attributes)


if __name__ == "__main__":
    main(int(sys.argv[1]), getattr(torch, sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
