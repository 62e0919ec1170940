"""`simplex_qp` on a GPU: one warp a problem (csrc/cuda/simplex_qp.cuh); the host never waits."""

from __future__ import annotations

import torch
from torch import Tensor

from pcl_kernels._cuda import launch
from pcl_kernels._programs import Results, addresses, room


def simplex_qp(gram: Tensor, sigma: Tensor | None) -> Results:
    """λ, gap, active, pivots, status for float32/float64 gram (..., k, k) and float64 sigma (k,) or (..., k).

    Up to k = 64 a problem lives in shared memory, beyond in device memory, with the same algorithm.
    """
    k, batch = gram.shape[-1], gram.shape[:-2]
    gram = gram.contiguous()
    results = room(gram)
    sigma_at, sigma_stride = 0, 0
    if sigma is not None:
        sigma = sigma.contiguous()
        sigma_at, sigma_stride = sigma.data_ptr(), k if sigma.dim() == gram.dim() - 1 and batch else 0
    launch(
        *("simplex_qp", gram.device, results[-1].numel(), k),
        *(gram.data_ptr(), gram.dtype is torch.float32, sigma_at, sigma_stride),
        *addresses(results),
    )
    return results
