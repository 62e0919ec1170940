"""`cone_qp` on a GPU: one warp a problem (csrc/cuda/cone_qp.cuh); the host never waits."""

from __future__ import annotations

import torch
from torch import Tensor

from pcl_kernels._cuda import launch
from pcl_kernels._programs import Results, addresses, room


def cone_qp(gram: Tensor, b: Tensor) -> Results:
    """v, gap, active, pivots, status for float32/float64 gram (..., k, k) and float64 b (k,) or (..., k)."""
    k, batch = gram.shape[-1], gram.shape[:-2]
    gram, b = gram.contiguous(), b.contiguous()
    results = room(gram)
    launch(
        *("cone_qp", gram.device, results[-1].numel(), k),
        *(gram.data_ptr(), gram.dtype is torch.float32),
        *(b.data_ptr(), k if b.dim() == gram.dim() - 1 and batch else 0),
        *addresses(results),
    )
    return results
