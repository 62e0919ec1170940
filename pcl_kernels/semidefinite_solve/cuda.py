"""`semidefinite_solve` on a GPU: one warp a problem (csrc/cuda/semidefinite_solve.cuh); the host never waits."""

from __future__ import annotations

import torch
from torch import Tensor

from pcl_kernels._cuda import launch


def semidefinite_solve(a: Tensor, b: Tensor, cutoff: float) -> Tensor:
    """A⁺b for the rows of b; float64 a (..., k, k), b (..., m, k)."""
    a, b = a.contiguous(), b.contiguous()
    x = torch.empty_like(b)
    rows, k = b.shape[-2:]
    launch(
        *("semidefinite_solve", a.device, a.numel() // (k * k), k),
        *(a.data_ptr(), b.data_ptr(), x.data_ptr(), cutoff, rows),
    )
    return x
