"""`imtl_g` on a GPU: one warp a problem (csrc/cuda/imtl_g.cuh); the host never waits."""

from __future__ import annotations

import torch
from torch import Tensor

from pcl_kernels._cuda import launch


def imtl_g(gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """α, residual, status for float32/float64 gram (..., k, k)."""
    k, batch = gram.shape[-1], gram.shape[:-2]
    gram = gram.contiguous()
    out = gram.new_empty(gram.shape[:-1], dtype=torch.float64)
    residual = gram.new_empty(batch, dtype=torch.float64)
    status = gram.new_empty(batch, dtype=torch.int32)
    launch(
        *("imtl_g", gram.device, status.numel(), k),
        *(gram.data_ptr(), gram.dtype is torch.float32, out.data_ptr(), residual.data_ptr(), status.data_ptr()),
    )
    return out, residual, status
