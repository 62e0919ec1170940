"""The products of the memory edit on a GPU.

`channel_sums` and `channel_affine` are Triton kernels that read every number once; they add and multiply in
float64, which is free where memory is the limit, and round once. The convolutions with a kernel for every sample are
batched matrix products over unfolded patches: the library's own are at the speed of the hardware there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from pcl_kernels._pointers import on
from pcl_kernels.combine.triton import _rounded
from pcl_kernels.gramian.triton import TRITON_DTYPES
from pcl_kernels.memory_edit.layout import layout, like_layout

TILE = (32, 32)  # positions, channels


@triton.jit
def _channel_sums(delta, u, sums, products, channels, positions, step_c, step_l, TILE_L: tl.constexpr,
                  TILE_C: tl.constexpr):  # fmt: skip
    """One program for some channels of a sample."""
    sample = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * TILE_C + tl.arange(0, TILE_C)
    first = sample * channels * positions
    plain = tl.zeros((TILE_C,), tl.float64)
    product = tl.zeros((TILE_C,), tl.float64)
    for start in range(0, positions, TILE_L):
        at = start + tl.arange(0, TILE_L)
        here = (at < positions)[:, None] & (c < channels)[None, :]
        place = first + at[:, None] * step_l + c[None, :] * step_c
        d = tl.load(delta + place, mask=here, other=0.0).to(tl.float64)
        plain += tl.sum(d, axis=0)
        product += tl.sum(d * tl.load(u + place, mask=here, other=0.0).to(tl.float64), axis=0)
    tl.store(sums + sample * channels + c, plain, mask=c < channels)
    tl.store(products + sample * channels + c, product, mask=c < channels)


@triton.jit
def _channel_affine(u, scale, v, p, q, out, channels, positions, step_c, step_l, HAS_U: tl.constexpr,
                    DTYPE: tl.constexpr, TILE_L: tl.constexpr, TILE_C: tl.constexpr):  # fmt: skip
    """One program for a tile of positions and channels of a sample."""
    sample = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * TILE_C + tl.arange(0, TILE_C)
    at = tl.program_id(2) * TILE_L + tl.arange(0, TILE_L)
    here = (at < positions)[:, None] & (c < channels)[None, :]
    place = sample * channels * positions + at[:, None] * step_l + c[None, :] * step_c
    of_sample = sample * channels + c
    x = tl.load(v + place, mask=here).to(tl.float64) * tl.load(p + of_sample, mask=c < channels)[None, :]
    x += tl.load(q + of_sample, mask=c < channels)[None, :]
    if HAS_U:
        x += tl.load(u + place, mask=here).to(tl.float64) * tl.load(scale + c, mask=c < channels)[None, :]
    tl.store(out + place, _rounded(x, DTYPE), mask=here)


def channel_sums(delta: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """`op.channel_sums` after its checks."""
    delta, last = layout(delta)
    u = like_layout(u, last)
    sums, products = (delta.new_zeros(delta.shape[:2], dtype=torch.float64) for _ in range(2))
    if u.numel():
        sizes = _sizes(u, last)
        grid = (len(u), triton.cdiv(u.shape[1], TILE[1]))
        with on(u.device):
            _channel_sums[grid](delta, u, sums, products, *sizes, TILE_L=TILE[0], TILE_C=TILE[1])
    return sums, products


def channel_affine(u: Tensor | None, scale: Tensor, v: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """`op.channel_affine` after its checks."""
    v, last = layout(v)
    first = v if u is None else like_layout(u, last)
    scale, p, q = (t.resolve_neg().contiguous() for t in (scale, p, q))
    out = torch.empty_like(v)
    if v.numel():
        sizes = _sizes(v, last)
        grid = (len(v), triton.cdiv(v.shape[1], TILE[1]), triton.cdiv(sizes[1], TILE[0]))
        constants = {"HAS_U": u is not None, "DTYPE": TRITON_DTYPES[v.dtype], "TILE_L": TILE[0], "TILE_C": TILE[1]}
        with on(v.device):
            _channel_affine[grid](first, scale, v, p, q, out, *sizes, **constants)
    return out


def _sizes(v: Tensor, channels_last: bool) -> tuple[int, int, int, int]:
    """Channels, positions, and the steps in memory from one to the next."""
    channels, positions = v.shape[1], v[0, 0].numel()
    return (channels, positions, 1, channels) if channels_last else (channels, positions, positions, 1)


def sample_conv(
    a: Tensor,
    delta: Tensor,
    minus: Tensor | None,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """`op.sample_conv` after its checks."""
    patches = F.unfold(a, tuple(kernel), tuple(dilation), tuple(padding), tuple(stride))  # (B, I * points, L)
    v = delta.flatten(2) @ patches.mT
    if minus is not None:
        v -= minus.flatten(1)
    out = (v @ patches).view(delta.shape).contiguous(memory_format=torch.channels_last)
    return v.view(len(a), delta.shape[1], a.shape[1], *kernel).movedim(2, -1).contiguous(), out


def sample_conv_transpose(
    v: Tensor,
    delta: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """`op.sample_conv_transpose` after its checks."""
    patches = v.movedim(-1, 2).flatten(2).mT @ delta.flatten(2)
    kernel = tuple(v.shape[2:4])
    out = F.fold(patches, tuple(size), kernel, tuple(dilation), tuple(padding), tuple(stride))
    return out.contiguous(memory_format=torch.channels_last)
