"""The truth for `nash_mtl`: plain float64 PyTorch, Newton with backtracking on the convex objective."""

from __future__ import annotations

import torch
from torch import Tensor


def nash_mtl(gram: Tensor) -> Tensor:
    """α > 0 with Gα = 1/α, the minimiser of 1/2 αᵀGα - Σ log α; gram (k, k) or (B, k, k) -> α, NaN where none."""
    if gram.dim() == 3:
        return torch.stack([nash_mtl(g) for g in gram])
    g = gram.double()
    d = g.diagonal().rsqrt()
    c = g * d * d.unsqueeze(-1)

    def value(x: Tensor) -> Tensor:
        return 0.5 * x @ c @ x - x.log().sum()

    x = torch.ones(len(g), dtype=torch.float64)
    for _ in range(300):
        slope = c @ x - 1 / x
        step = torch.linalg.lstsq(c + torch.diag(x**-2), -slope.unsqueeze(-1)).solution.squeeze(-1)
        size = 1.0
        while size > 1e-12 and (
            bool((x + size * step <= 0).any()) or bool(value(x + size * step) > value(x) + 1e-4 * size * slope @ step)
        ):
            size /= 2
        x = x + size * step if size > 1e-12 else x
    exists = (x * (c @ x) - 1).abs().max() < 1e-8
    return torch.where(exists, x * d, torch.nan)
