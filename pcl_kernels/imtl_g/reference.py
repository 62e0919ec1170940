"""The truth for `imtl_g`: its definition by a pseudoinverse from eigenvalues, in plain float64 PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def imtl_g(gram: Tensor) -> Tensor:
    """α = N⁻¹C⁺1 over its sum, N = diag(‖g_i‖), C the cosines; gram (k, k) or (B, k, k) of nonzero gradients.

    For independent gradients the projections C·Nα of d on the unit gradients are all equal.
    """
    g = gram.double()
    size = g.diagonal(dim1=-2, dim2=-1).rsqrt()
    cosines = g * size.unsqueeze(-1) * size.unsqueeze(-2)
    cutoff = 4 * g.shape[-1] * torch.finfo(gram.dtype).eps
    alpha: Tensor = size * torch.linalg.pinv(cosines, rtol=cutoff, hermitian=True).sum(-1)
    return alpha / alpha.sum(-1, keepdim=True)
