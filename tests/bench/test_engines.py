"""The compiled engine gives the output of plain PyTorch. `test_block_bench` checks the other engines."""

from __future__ import annotations

import pytest
import torch

from sparsing.bench.engines import torch_compiled
from sparsing.bench.planted import plant_block
from sparsing.decode.kernels.cuts import no_cuts
from sparsing.decode.kernels.plain import ffn


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:.torch.jit:DeprecationWarning"
)  # raised by modules that torch's own compiler imports
def test_torch_compile_gives_the_same():
    packed = plant_block(64, 96).packed
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    engine, seconds = torch_compiled([packed], [packed.down.T.contiguous()], x)
    assert seconds > 0
    torch.testing.assert_close(engine.calls[0](x), ffn(packed, x, no_cuts(96)), rtol=1e-4, atol=1e-5)
