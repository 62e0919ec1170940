"""The integrated gradient of every neuron's step on a GPU: all points in one pass, sums in float64 in a fixed order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pcl_kernels._pointers import on
from pcl_kernels.firefly_split.layout import block, walk_of
from pcl_kernels.firefly_split.triton import SPAN, _of_channels, constants, slope, steps, tile_of, tile_sizes, vectors


@triton.jit(do_not_specialize=["points"])
def _score(a, d, grad, partial, epsilon, scale, shift, mirror, channels, positions, points, step_c, a_b, a_l, d_b, d_l,
           g_b, g_l, ACTIVATION: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_SHIFT: tl.constexpr,
           HAS_MIRROR: tl.constexpr, COMPUTE: tl.constexpr, TILE_L: tl.constexpr, TILE_C: tl.constexpr,
           SPAN: tl.constexpr):  # fmt: skip
    """partial [programs, channels] = Σ g d Σ_z (act'(u+) + mirror act'(u-))."""
    spans = tl.cdiv(positions, SPAN)
    program = tl.program_id(0).to(tl.int64)
    sample = program // spans
    c = tl.program_id(1).to(tl.int64) * TILE_C + tl.arange(0, TILE_C)
    s, t, plus, minus, both = _of_channels(
        epsilon, scale, shift, mirror, c, c < channels, HAS_SCALE, HAS_SHIFT, HAS_MIRROR, COMPUTE
    )
    place = c[None, :] * step_c
    sum = tl.zeros((TILE_C,), tl.float64)
    first = program % spans * SPAN
    for start in range(0, tl.minimum(positions - first, SPAN), TILE_L):
        at = first + start + tl.arange(0, TILE_L)
        here = (at < positions)[:, None] & (c < channels)[None, :]
        base = s * tl.load(a + sample * a_b + at[:, None] * a_l + place, mask=here, other=0.0).to(COMPUTE) + t
        along = tl.load(d + sample * d_b + at[:, None] * d_l + place, mask=here, other=0.0).to(COMPUTE)
        of_y = tl.load(grad + sample * g_b + at[:, None] * g_l + place, mask=here, other=0.0).to(COMPUTE)
        slopes = tl.zeros((TILE_L, TILE_C), COMPUTE)
        for z in range(points):
            share = (tl.cast(2 * z + 1, tl.float64) / tl.cast(2 * points, tl.float64)).to(COMPUTE)
            slopes += slope(base + share * (plus * along), ACTIVATION)
            slopes += both * slope(base + share * (minus * along), ACTIVATION)
        sum += tl.sum((of_y * along * slopes).to(tl.float64), axis=0)
    tl.store(partial + program * channels + c, sum, mask=c < channels)


def firefly_score(
    a: Tensor,
    d: Tensor,
    epsilon: Tensor,
    grad: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mirror: Tensor | None,
    activation: str,
    points: int,
) -> Tensor:
    """The registered op."""
    if not a.numel():
        return a.new_zeros(a.shape[1], dtype=torch.float64)
    walk = walk_of(a)
    tensors = [block(t, walk.rows) for t in (a, d, grad)]
    samples, positions, step_c = tile_sizes(walk)
    programs = samples * triton.cdiv(positions, SPAN)
    partial = a.new_empty((programs, walk.channels), dtype=torch.float64)
    with on(a.device):
        _score[(programs, triton.cdiv(walk.channels, tile_of(a)[1]))](
            *(t.tensor for t in tensors), partial, *vectors(epsilon, scale, shift, mirror), walk.channels, positions,
            points, step_c, *steps(walk, tensors), **constants(a, scale, shift, mirror, activation), SPAN=SPAN,
        )  # fmt: skip
    sums = partial.sum(0) / (2 * points)
    return sums if scale is None else scale.double() * sums
