"""`simplex_qp` on a GPU: one warp a problem (csrc/cuda/simplex_qp.cuh); the host never waits."""

from __future__ import annotations

import torch
from torch import Tensor

from pcl_kernels._cuda import launch


def simplex_qp(gram: Tensor, sigma: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """λ, gap, active, pivots, status for float32/float64 gram (..., k, k) and float64 sigma (k,) or (..., k).

    Up to k = 64 a problem lives in shared memory, beyond in device memory, with the same algorithm.
    """
    k, batch = gram.shape[-1], gram.shape[:-2]
    gram = gram.contiguous()
    out = gram.new_empty(gram.shape[:-1], dtype=torch.float64)
    gap = gram.new_empty(batch, dtype=torch.float64)
    active = gram.new_empty(gram.shape[:-1], dtype=torch.bool)
    pivots = gram.new_empty(batch, dtype=torch.int32)
    status = gram.new_empty(batch, dtype=torch.int32)
    sigma_at, sigma_stride = 0, 0
    if sigma is not None:
        sigma = sigma.contiguous()
        sigma_at, sigma_stride = sigma.data_ptr(), k if sigma.dim() == gram.dim() - 1 and batch else 0
    launch(
        *("simplex_qp", gram.device, gap.numel(), k),
        *(gram.data_ptr(), gram.dtype is torch.float32, sigma_at, sigma_stride, out.data_ptr()),
        *(gap.data_ptr(), active.data_ptr(), pivots.data_ptr(), status.data_ptr()),
    )
    return out, gap, active, pivots, status
