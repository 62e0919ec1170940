"""How `(B, m, ...)` tensors lie in memory for kernels that walk channels: in planes or in rows.

In planes the positions of one channel lie side by side, as in contiguous memory; a sample is a block. In rows the
channels of one position do, as in channels-last memory and wherever there is one position; a row is a block. Blocks may
lie apart, so that both halves of a tensor of stacked neurons can be walked where they are.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pcl_kernels._gradients import DTYPES
from pcl_kernels.firefly_split.checks import ACTIVATIONS


class Walk(NamedTuple):
    """Blocks, channels, positions in a plane (1 in a row)."""

    outer: int
    channels: int
    positions: int
    rows: bool


class Block(NamedTuple):
    """A tensor, kept alive, and the numbers between its blocks."""

    tensor: Tensor
    step: int

    @property
    def pair(self) -> tuple[int, int]:
        return self.tensor.data_ptr(), self.step


def halves(a: Tensor, d: Tensor | None) -> tuple[Tensor, Tensor]:
    """a and d; without d the two halves of a's channels."""
    if d is not None:
        return a, d
    m = a.shape[1] // 2
    return a[:, :m], a[:, m:]


def walk_of(a: Tensor) -> Walk:
    """How a is walked: in rows where it has one position or lies in them, else in planes."""
    positions = a.shape[2:].numel()
    rows = positions == 1 or (_plane_step(a) is None and _row_step(a) is not None)
    return Walk(a.shape[0] * (positions if rows else 1), a.shape[1], 1 if rows else positions, rows)


def held(t: Tensor) -> Tensor:
    """t where memory holds its values: no view of their negative, no zeros without memory, as autograd makes them."""
    return torch.zeros(t.shape, dtype=t.dtype, device=t.device) if t._is_zerotensor() else t.resolve_neg()


def block(t: Tensor, rows: bool) -> Block:
    """t in planes or rows, copied where it lies otherwise."""
    t = held(t)
    step = (_row_step if rows else _plane_step)(t)
    if step is not None:
        return Block(t, step)
    if rows:
        return Block(t.movedim(1, -1).contiguous().movedim(-1, 1), t.shape[1])
    return Block(t.contiguous(), t.shape[1:].numel())


def empty(like: Tensor, channels: int, rows: bool) -> Tensor:
    """A new tensor for so many channels at the positions of `like`."""
    shape = like.shape
    if rows:
        return like.new_empty((shape[0], *shape[2:], channels)).movedim(-1, 1)
    return like.new_empty((shape[0], channels, *shape[2:]))


def empty_gradients(a: Tensor, d: Tensor | None, walk: Walk) -> tuple[Tensor, Tensor, tuple[Block, Block]]:
    """Tensors for the gradients of a and d, the second empty where a holds both, and where each is to be written."""
    da = empty(a, a.shape[1], walk.rows)
    dd = a.new_empty(0) if d is None else empty(d, d.shape[1], walk.rows)
    first, second = halves(da, None if d is None else dd)
    return da, dd, (block(first, walk.rows), block(second, walk.rows))


def wide(vector: Tensor | None) -> Tensor | None:
    """A vector as the kernels read it."""
    return None if vector is None else held(vector.to(torch.float64)).contiguous()


def sizes(walk: Walk, a: Tensor, activation: str) -> tuple[int, int, int, bool, int, int]:
    return *walk, DTYPES[a.dtype], ACTIVATIONS[activation]


def addresses(*vectors: Tensor | None) -> list[int]:
    return [0 if v is None else v.data_ptr() for v in vectors]


def _plane_step(t: Tensor) -> int | None:
    expected = 1
    for size, stride in zip(reversed(t.shape[1:]), reversed(t.stride()[1:]), strict=True):
        if size != 1 and stride != expected:
            return None
        expected *= size
    return t.stride(0)


def _row_step(t: Tensor) -> int | None:
    if t.shape[1] != 1 and t.stride(1) != 1:
        return None
    step, count = None, 1
    for size, stride in zip(
        (*reversed(t.shape[2:]), t.shape[0]), (*reversed(t.stride()[2:]), t.stride(0)), strict=True
    ):
        if size == 1:
            continue
        if step is None:
            step = stride
        elif stride != step * count:
            return None
        count *= size
    return t.shape[1] if step is None else step
