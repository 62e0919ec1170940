"""The truth for `imtl_g`: its defining equations as one least squares problem, in plain float64 PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def imtl_g(gram: Tensor) -> Tensor:
    """α, Σα = 1, with d·g_i/‖g_i‖ the same for all i; gram (k, k) of independent gradients."""
    g = gram.double()
    unit = g / g.diagonal().sqrt().unsqueeze(-1)  # row i: projections of all gradients on u_i
    system = torch.cat([unit[1:] - unit[:1], torch.ones(1, len(g), dtype=torch.float64)])
    right = torch.zeros(len(g), 1, dtype=torch.float64)
    right[-1] = 1
    alpha: Tensor = torch.linalg.solve(system, right).squeeze(-1)
    return alpha
