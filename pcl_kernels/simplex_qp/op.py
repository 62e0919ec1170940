from __future__ import annotations

import torch
from torch import Tensor

from pcl_kernels import _C
from pcl_kernels._registry import define, plain


def _cpu(gram: Tensor, sigma: Tensor | None) -> Tensor:
    gram = gram.to(torch.float64).contiguous()
    k = gram.shape[-1]
    out = torch.empty(gram.shape[:-1], dtype=torch.float64)
    _C.simplex_qp(
        gram.data_ptr(), 0 if sigma is None else sigma.data_ptr(), out.data_ptr(), out.numel() // max(k, 1), k
    )
    return out


def _fake(gram: Tensor, sigma: Tensor | None) -> Tensor:
    return gram.new_empty(gram.shape[:-1], dtype=torch.float64)


_op = define("simplex_qp(Tensor gram, Tensor? sigma) -> Tensor", cpu=_cpu, fake=_fake)


def simplex_qp(gram: Tensor, sigma: Tensor | None = None) -> Tensor:
    if plain(gram):
        return _cpu(gram, sigma)
    out: Tensor = _op(gram, sigma)
    return out
