"""`cagrad_dual` on a GPU: one warp a problem (csrc/cuda/cagrad_dual.cuh); the host never waits."""

from __future__ import annotations

import torch
from torch import Tensor

from pcl_kernels._checks import vector_address
from pcl_kernels._cuda import launch
from pcl_kernels._programs import Results, addresses, room


def cagrad_dual(gram: Tensor, c: float, preference: Tensor | None) -> Results:
    """w, gap, active, pivots, status for float32/float64 gram (..., k, k), float64 preference (k,) or (..., k)."""
    k = gram.shape[-1]
    gram = gram.contiguous()
    preference = None if preference is None else preference.contiguous()
    results = room(gram)
    launch(
        *("cagrad_dual", gram.device, results[-1].numel(), k),
        *(gram.data_ptr(), gram.dtype is torch.float32, c, *vector_address(preference, gram)),
        *addresses(results),
    )
    return results
