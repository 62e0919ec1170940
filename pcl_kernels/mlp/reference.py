"""A chain of Linear layers and ReLUs in plain float64 PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def mlp(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Tensor:
    """h_L with h_l = max(0, W_l h_{l-1} + b_l) and h_0 = x, in float64."""
    h = x.double()
    for weight, bias in zip(weights, biases, strict=True):
        h = F.linear(h, weight.double(), None if bias is None else bias.double()).relu()
    return h
