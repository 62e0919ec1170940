"""`imtl_g`: a closed form, so plain PyTorch on every device is also its kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from pcl_kernels._checks import check_gram, not_finite


def imtl_g(gram: Tensor) -> Tensor:
    """The weights α, Σα = 1, for which d = Σ α_i g_i has the same projection on every unit gradient.

    IMTL-G (Liu et al. 2021, Eq. 6): with N = diag(‖g_i‖) the cosines are C = N⁻¹GN⁻¹, and α is N⁻¹C⁺1 divided
    by its sum.
    The pseudoinverse C⁺ covers dependent gradients: it gives the most equal projections they allow.

    Args:
        gram: (k, k) or (B, k, k), float32 or float64, symmetric positive semidefinite; solved in float64.

    Returns:
        α, float64, (k,) or (B, k) on the device of `gram`; entries may be negative. Not finite
        where that sum is zero, since no α will do then. Zero gradients get weight 0. Differentiable.

    Raises:
        TypeError, ValueError: wrong dtype or shape; on CPU also for NaN and Inf.
    """
    check_gram(gram)
    if gram.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(gram.isfinite().all()):
        raise not_finite("gram")
    g = gram.double()
    diagonal = g.diagonal(dim1=-2, dim2=-1)
    some = diagonal > 0
    scale = torch.where(some, torch.where(some, diagonal, 1.0).rsqrt(), 0.0)
    scale = scale / scale.amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    size = torch.where(some, torch.where(some, diagonal, 1.0).rsqrt(), 0.0)
    cosines = g * size.unsqueeze(-1) * size.unsqueeze(-2)
    cosines = 0.5 * (cosines + cosines.transpose(-1, -2))
    # what the rounding of the input leaves of an eigenvalue 0
    cutoff = gram.shape[-1] * 4 * torch.finfo(gram.dtype).eps
    inverse = torch.linalg.pinv(cosines, rtol=cutoff, hermitian=True)
    alpha = scale * inverse.sum(-1)
    out: Tensor = alpha / alpha.sum(-1, keepdim=True)
    return out
