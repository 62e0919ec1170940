"""Both halves of split neurons and their gradients on a GPU, every number read once.

A program has a tile of positions and channels. Rows count as the positions of a single sample. Sums are made in float64
per program and added up in a fixed order: nothing is atomic, nothing waits for the host.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from pcl_kernels._pointers import on
from pcl_kernels.combine.triton import _rounded
from pcl_kernels.firefly_split.checks import ACTIVATIONS
from pcl_kernels.firefly_split.layout import Block, Walk, block, empty, empty_gradients, halves, walk_of, wide
from pcl_kernels.gramian.triton import TRITON_DTYPES

SPAN = 512  # positions that a program adds up


@triton.jit
def _logistic(u):
    """1 / (1 + e^-u) and its slope."""
    e = tl.exp(-tl.abs(u))
    v = 1.0 / (1.0 + e)
    return tl.where(u < 0, e, 1.0) * v, e * v * v


@triton.jit
def _tanh(u):
    """Below 0.625 by its continued fraction, which the difference of exponentials would cancel."""
    z = tl.abs(u)
    e = tl.exp(-2.0 * z)
    q = tl.where(z < 0.625, u * u, 0.0)
    level = 17.0 + q / 19.0
    for n in tl.static_range(8):
        level = (15.0 - 2 * n) + q / level
    large = (1.0 - e) / (1.0 + e)
    return tl.where(z < 0.625, u / level, tl.where(u < 0, -large, large))


@triton.jit
def value(u, ACTIVATION: tl.constexpr):
    if ACTIVATION == 0:
        return u
    elif ACTIVATION == 1:
        return tl.where(u < 0, 0.0, u)
    elif ACTIVATION == 2:
        return 0.5 * u * (1.0 + tl.erf(u * 0.7071067811865476))
    elif ACTIVATION == 3:
        return u * _logistic(u)[0]
    elif ACTIVATION == 4:
        return _tanh(u)
    elif ACTIVATION == 5:
        return _logistic(u)[0]
    else:
        return tl.exp(-0.5 * u * u)


@triton.jit
def slope(u, ACTIVATION: tl.constexpr):
    if ACTIVATION == 0:
        return tl.full(u.shape, 1.0, u.dtype)
    elif ACTIVATION == 1:
        return tl.where(u <= 0, 0.0, 1.0).to(u.dtype)
    elif ACTIVATION == 2:
        below = 0.5 * (1.0 + tl.erf(u * 0.7071067811865476))
        return below + u * (tl.exp(-0.5 * u * u) * 0.3989422804014327)
    elif ACTIVATION == 3:
        share, rise = _logistic(u)
        return share + u * rise
    elif ACTIVATION == 4:
        return 4.0 * _logistic(2.0 * u)[1]
    elif ACTIVATION == 5:
        return _logistic(u)[1]
    else:
        return -u * tl.exp(-0.5 * u * u)


@triton.jit
def _of_channels(epsilon, scale, shift, mirror, c, here, HAS_SCALE: tl.constexpr, HAS_SHIFT: tl.constexpr,
                 HAS_MIRROR: tl.constexpr, COMPUTE: tl.constexpr):  # fmt: skip
    """s, t, s ε, s mirror ε and mirror of the channels in a tile, [1, TILE_C]."""
    step = tl.load(epsilon + c, mask=here, other=0.0)
    s = tl.load(scale + c, mask=here, other=0.0) if HAS_SCALE else tl.full(step.shape, 1.0, tl.float64)
    t = tl.load(shift + c, mask=here, other=0.0) if HAS_SHIFT else tl.zeros(step.shape, tl.float64)
    both = tl.load(mirror + c, mask=here, other=0.0) if HAS_MIRROR else tl.full(step.shape, -1.0, tl.float64)
    return (s.to(COMPUTE)[None, :], t.to(COMPUTE)[None, :], (s * step).to(COMPUTE)[None, :],
            (s * both * step).to(COMPUTE)[None, :], both.to(COMPUTE)[None, :])  # fmt: skip


@triton.jit
def _split(a, d, y, epsilon, scale, shift, mirror, channels, positions, step_c, a_b, a_l, d_b, d_l, y_b, y_l,
           ACTIVATION: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_SHIFT: tl.constexpr, HAS_MIRROR: tl.constexpr,
           DTYPE: tl.constexpr, COMPUTE: tl.constexpr, TILE_L: tl.constexpr, TILE_C: tl.constexpr):  # fmt: skip
    tiles = tl.cdiv(positions, TILE_L)
    sample = tl.program_id(0).to(tl.int64) // tiles
    c = tl.program_id(1).to(tl.int64) * TILE_C + tl.arange(0, TILE_C)
    at = tl.program_id(0).to(tl.int64) % tiles * TILE_L + tl.arange(0, TILE_L)
    here = (at < positions)[:, None] & (c < channels)[None, :]
    s, t, plus, minus, _ = _of_channels(
        epsilon, scale, shift, mirror, c, c < channels, HAS_SCALE, HAS_SHIFT, HAS_MIRROR, COMPUTE
    )
    place = c[None, :] * step_c
    base = s * tl.load(a + sample * a_b + at[:, None] * a_l + place, mask=here, other=0.0).to(COMPUTE) + t
    along = tl.load(d + sample * d_b + at[:, None] * d_l + place, mask=here, other=0.0).to(COMPUTE)
    both = value(base + plus * along, ACTIVATION) + value(base + minus * along, ACTIVATION)
    tl.store(y + sample * y_b + at[:, None] * y_l + place, _rounded(0.5 * both, DTYPE), mask=here)


@triton.jit
def _split_backward(a, d, grad, da, dd, partial, epsilon, scale, shift, mirror, channels, positions, step_c, a_b, a_l,
                    d_b, d_l, g_b, g_l, da_b, da_l, dd_b, dd_l, ACTIVATION: tl.constexpr, HAS_SCALE: tl.constexpr,
                    HAS_SHIFT: tl.constexpr, HAS_MIRROR: tl.constexpr, DTYPE: tl.constexpr, COMPUTE: tl.constexpr,
                    TILE_L: tl.constexpr, TILE_C: tl.constexpr, SPAN: tl.constexpr):  # fmt: skip
    """Beside da and dd, in partial [programs, 3, channels]: Σ d (g+ + mirror g-), Σ a (g+ + g-) and Σ (g+ + g-)."""
    spans = tl.cdiv(positions, SPAN)
    program = tl.program_id(0).to(tl.int64)
    sample = program // spans
    c = tl.program_id(1).to(tl.int64) * TILE_C + tl.arange(0, TILE_C)
    s, t, plus, minus, both = _of_channels(
        epsilon, scale, shift, mirror, c, c < channels, HAS_SCALE, HAS_SHIFT, HAS_MIRROR, COMPUTE
    )
    place = c[None, :] * step_c
    of_d = tl.zeros((TILE_C,), tl.float64)
    of_a = tl.zeros((TILE_C,), tl.float64)
    of_u = tl.zeros((TILE_C,), tl.float64)
    first = program % spans * SPAN
    for start in range(0, tl.minimum(positions - first, SPAN), TILE_L):
        at = first + start + tl.arange(0, TILE_L)
        here = (at < positions)[:, None] & (c < channels)[None, :]
        at_a = tl.load(a + sample * a_b + at[:, None] * a_l + place, mask=here, other=0.0).to(COMPUTE)
        at_d = tl.load(d + sample * d_b + at[:, None] * d_l + place, mask=here, other=0.0).to(COMPUTE)
        half = 0.5 * tl.load(grad + sample * g_b + at[:, None] * g_l + place, mask=here, other=0.0).to(COMPUTE)
        base = s * at_a + t
        up = half * slope(base + plus * at_d, ACTIVATION)
        down = half * slope(base + minus * at_d, ACTIVATION)
        along_a = up + down
        along_d = up + both * down
        tl.store(da + sample * da_b + at[:, None] * da_l + place, _rounded(s * along_a, DTYPE), mask=here)
        tl.store(dd + sample * dd_b + at[:, None] * dd_l + place, _rounded(plus * along_d, DTYPE), mask=here)
        of_d += tl.sum((along_d * at_d).to(tl.float64), axis=0)
        of_a += tl.sum((along_a * at_a).to(tl.float64), axis=0)
        of_u += tl.sum(along_a.to(tl.float64), axis=0)
    to = partial + program * 3 * channels + c
    tl.store(to, of_d, mask=c < channels)
    tl.store(to + channels, of_a, mask=c < channels)
    tl.store(to + 2 * channels, of_u, mask=c < channels)


def firefly_split(
    a: Tensor,
    d: Tensor | None,
    epsilon: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mirror: Tensor | None,
    activation: str,
) -> Tensor:
    """The registered op."""
    first, second = halves(a, d)
    walk = walk_of(first)
    y = empty(first, walk.channels, walk.rows)
    if y.numel():
        tensors = [block(t, walk.rows) for t in (first, second, y)]
        samples, positions, step_c = tile_sizes(walk)
        tile = tile_of(a)
        grid = (samples * triton.cdiv(positions, tile[0]), triton.cdiv(walk.channels, tile[1]))
        with on(a.device):
            _split[grid](
                *(t.tensor for t in tensors), *vectors(epsilon, scale, shift, mirror), walk.channels, positions, step_c,
                *steps(walk, tensors), **constants(a, scale, shift, mirror, activation), DTYPE=TRITON_DTYPES[a.dtype],
            )  # fmt: skip
    return y


def firefly_split_backward(
    a: Tensor,
    d: Tensor | None,
    epsilon: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mirror: Tensor | None,
    activation: str,
    grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The registered op."""
    first, second = halves(a, d)
    walk = walk_of(first)
    da, dd, to = empty_gradients(a, d, walk)
    if not first.numel():
        return da, dd, a.new_zeros((3, walk.channels), dtype=torch.float64)
    tensors = [*(block(t, walk.rows) for t in (first, second, grad)), *to]
    samples, positions, step_c = tile_sizes(walk)
    programs = samples * triton.cdiv(positions, SPAN)
    partial = a.new_empty((programs, 3, walk.channels), dtype=torch.float64)
    with on(a.device):
        _split_backward[(programs, triton.cdiv(walk.channels, tile_of(a)[1]))](
            *(t.tensor for t in tensors), partial, *vectors(epsilon, scale, shift, mirror), walk.channels, positions,
            step_c, *steps(walk, tensors), **constants(a, scale, shift, mirror, activation),
            DTYPE=TRITON_DTYPES[a.dtype], SPAN=SPAN,
        )  # fmt: skip
    of_d, of_a, of_u = partial.sum(0)
    of_epsilon = of_d if scale is None else scale.double() * of_d
    return da, dd, torch.stack([of_epsilon, of_a + epsilon.double() * of_d, of_u])


def tile_of(a: Tensor) -> tuple[int, int]:
    """Positions and channels of a tile; exponentials in float64 need registers."""
    return (16, 16) if a.dtype == torch.float64 else (32, 32)


def tile_sizes(walk: Walk) -> tuple[int, int, int]:
    """Samples, positions, and the step in memory from one channel to the next; rows are one sample's positions."""
    return (1, walk.outer, 1) if walk.rows else (walk.outer, walk.positions, walk.positions)


def steps(walk: Walk, tensors: list[Block]) -> list[int]:
    """Of every tensor the steps in memory from one sample and from one position to the next."""
    return [n for t in tensors for n in ((0, t.step) if walk.rows else (t.step, 1))]


def vectors(epsilon: Tensor, *optional: Tensor | None) -> list[Tensor]:
    """The numbers of every channel in float64; epsilon stands for what is absent and not read."""
    first = wide(epsilon)
    assert first is not None
    return [first, *(first if v is None else v for v in map(wide, optional))]


def constants(
    a: Tensor, scale: Tensor | None, shift: Tensor | None, mirror: Tensor | None, activation: str
) -> dict[str, Any]:
    """What the kernels are compiled for."""
    has = {"HAS_SCALE": scale is not None, "HAS_SHIFT": shift is not None, "HAS_MIRROR": mirror is not None}
    tile = tile_of(a)
    compute = tl.float64 if a.dtype == torch.float64 else tl.float32
    return {"ACTIVATION": ACTIVATIONS[activation], **has, "COMPUTE": compute, "TILE_L": tile[0], "TILE_C": tile[1]}
