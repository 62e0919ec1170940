"""`cone_qp` on a GPU: one warp a problem (csrc/cuda/cone_qp.cuh); the host never waits."""

from __future__ import annotations

import torch
from torch import Tensor

from pcl_kernels._cuda import launch


def cone_qp(gram: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """v, gap, active, pivots, status for float32/float64 gram (..., k, k) and float64 b (k,) or (..., k)."""
    k, batch = gram.shape[-1], gram.shape[:-2]
    gram, b = gram.contiguous(), b.contiguous()
    out = gram.new_empty(gram.shape[:-1], dtype=torch.float64)
    gap = gram.new_empty(batch, dtype=torch.float64)
    active = gram.new_empty(gram.shape[:-1], dtype=torch.bool)
    pivots = gram.new_empty(batch, dtype=torch.int32)
    status = gram.new_empty(batch, dtype=torch.int32)
    launch(
        *("cone_qp", gram.device, gap.numel(), k),
        *(gram.data_ptr(), gram.dtype is torch.float32),
        *(b.data_ptr(), k if b.dim() == gram.dim() - 1 and batch else 0, out.data_ptr()),
        *(gap.data_ptr(), active.data_ptr(), pivots.data_ptr(), status.data_ptr()),
    )
    return out, gap, active, pivots, status
