"""The Gramian in plain float64 PyTorch: the truth that every kernel is compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from pcl_kernels._gradients import Grads


def gramian(grads: Grads, *, out_dtype: torch.dtype | None = None) -> Tensor:
    """G_ij = Σ_p g_ip · g_jp, one parameter after the other."""
    rows = [[g] if isinstance(g, Tensor) else list(g) for g in grads]
    k = len(rows)
    device = next((g.device for row in rows for g in row if g is not None), torch.device("cpu"))
    gram = torch.zeros(k, k, dtype=torch.float64, device=device)
    for p in range(len(rows[0])):
        shape = next((row[p].shape for row in rows if row[p] is not None), torch.Size([0]))
        flat = [torch.zeros(shape) if row[p] is None else row[p] for row in rows]
        jacobian = torch.stack([g.to(device, torch.float64).reshape(-1) for g in flat])  # (k, n_p)
        gram = gram + jacobian @ jacobian.T
    return gram if out_dtype is None else gram.to(out_dtype)
