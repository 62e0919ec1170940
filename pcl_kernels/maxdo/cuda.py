"""`maxdo` on a GPU: one warp a problem (csrc/cuda/maxdo.cuh); the host never waits."""

from __future__ import annotations

import torch
from torch import Tensor

from pcl_kernels._cuda import launch
from pcl_kernels._programs import Results, addresses, room


def maxdo(gram: Tensor) -> Results:
    """w, gap, active, pivots, status for float32/float64 gram (..., k, k)."""
    k = gram.shape[-1]
    gram = gram.contiguous()
    results = room(gram)
    launch(
        *("maxdo", gram.device, results[-1].numel(), k),
        *(gram.data_ptr(), gram.dtype is torch.float32),
        *addresses(results),
    )
    return results
