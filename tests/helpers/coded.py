"""A projection that keeps its matrix as codes, as libraries of quantised weights do."""

from __future__ import annotations

import torch
from torch import nn


class Codes(nn.Module):
    """A linear as GPTQ, AWQ and bitsandbytes keep it: integers and scales, transposed here."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scale = linear.weight.detach().abs().amax(1) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("weight", (linear.weight.detach() / scale[:, None]).round().to(torch.int8).T)
        self.register_buffer("bias", torch.arange(linear.out_features) / 10)

    def forward(self, x):
        return x @ (self.weight.T * self.scale[:, None]).T + self.bias
