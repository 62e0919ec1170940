"""The products of the memory edit in plain float64 PyTorch, every sample's kernel written out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def sample_conv(
    a: Tensor,
    delta: Tensor,
    minus: Tensor | None,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
) -> tuple[Tensor, Tensor]:
    """V_b = Σ_l δ_l patch_lᵀ - minus and V_b * a_b, by unfolding the patches."""
    samples, channels = a.shape[:2]
    out_channels = delta.shape[1]
    patches = F.unfold(a.double(), *map(tuple, (kernel_size, dilation, padding, stride)))  # (B, F, L)
    v = delta.double().flatten(2) @ patches.mT  # (B, O, F)
    if minus is not None:
        v = v - minus.double().flatten(1)
    out = (v @ patches).view(samples, out_channels, *delta.shape[2:])
    v = v.view(samples, out_channels, channels, *kernel_size)
    return v.movedim(2, -1).to(a.dtype), out.to(a.dtype)


def sample_conv_transpose(
    v: Tensor,
    delta: Tensor,
    size: Sequence[int],
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
) -> Tensor:
    """V_bᵀ * δ_b: the patches' share of every output, folded."""
    kernel_size = v.shape[2:4]
    weights = v.double().movedim(-1, 2).flatten(2)  # (B, O, F)
    patches = weights.mT @ delta.double().flatten(2)
    return F.fold(patches, *map(tuple, (size, kernel_size, dilation, padding, stride))).to(v.dtype)


def channel_sums(delta: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_l δ_bcl and Σ_l δ_bcl u_bcl."""
    delta, u = (t.double()[..., None].flatten(2) for t in (delta, u))
    return delta.sum(dim=2), (delta * u).sum(dim=2)


def channel_affine(u: Tensor | None, scale: Tensor, v: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """scale_c u_bcl + p_bc v_bcl + q_bc."""
    over_positions = (slice(None), slice(None), *[None] * (v.dim() - 2))
    out = p[over_positions] * v.double() + q[over_positions]
    if u is not None:
        out = scale[None][over_positions] * u.double() + out
    return out.to(v.dtype)
