"""The truth for `cone_qp`: all active sets, in plain float64 PyTorch. For k up to about 12."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def cone_qp(gram: Tensor, b: Tensor) -> Tensor:
    """argmin of 1/2 vᵀGv + vᵀb over v >= 0; gram (k, k) or (B, k, k), b (k,) or (B, k) -> float64 v.

    For each set S of free variables it solves G_SS v_S = -b_S and keeps the feasible v of least objective.
    """
    if gram.dim() == 3:
        rows = b.expand(gram.shape[:-1])
        return torch.stack([cone_qp(g, c) for g, c in zip(gram, rows, strict=True)])
    g, c = gram.double(), b.double()
    k = len(c)
    best, best_value = torch.zeros(k, dtype=torch.float64), 0.0
    for size in range(1, k + 1):
        for chosen in itertools.combinations(range(k), size):
            s = list(chosen)
            v = torch.zeros(k, dtype=torch.float64)
            v[s] = torch.linalg.lstsq(g[s][:, s], -c[s].unsqueeze(-1), driver="gelsd").solution.squeeze(-1)
            value = float(0.5 * v @ g @ v + v @ c)
            if bool((v >= 0).all()) and value < best_value:
                best, best_value = v, value
    return best
