"""What the one backward pass over the batches of all tasks has to know of a type of layer."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from pcl.gradients.rows import Rows

ALL = slice(None)

Saved = tuple[Any, ...]
"""Tensors that backward needs, or None."""

Small = dict[str, list[Tensor]]
"""Name of a parameter: its gradient for every block of rows."""


class Rule(NamedTuple):
    """How the layers of one type, z = f(a; W, c), run and differentiate; delta is d loss / d z.

    Attributes:
        forward: (layer, x, rows) to (z, what backward needs, a first). Not recorded by autograd.
        backward: (layer, saved, delta, rows, needed) to (d loss / d x, or None if not needed; the gradients of the
            small parameters block by block).
        weight: (layer, a, delta, channels) to the gradient with respect to W from the a and delta of any rows: those of
            one task for g_i; all, with delta weighted, for the direction. ``channels`` is a range of the channels of
            z, if only their part is wanted. None for a layer whose parameters are all small.
        axis: of W along which the channels of z lie.
        prepare: (layer, x) to x, recorded by autograd: what goes before, such as padding.
        uncovered: (layer) to why it cannot run so, or "".
    """

    forward: Callable[[Any, Tensor, Rows], tuple[Tensor, Saved]]
    backward: Callable[[Any, Saved, Tensor, Rows, bool], tuple[Tensor | None, Small]]
    weight: Callable[[Any, Tensor, Tensor, slice], Tensor] | None = None
    axis: int = 0
    prepare: Callable[[Any, Tensor], Tensor] = lambda layer, x: x
    uncovered: Callable[[Any], str] = lambda layer: ""


def block_sums(delta: Tensor, rows: Rows) -> list[Tensor]:
    """Of delta ``(rows, positions, channels)`` the sum over each block, ``(channels,)``."""
    if rows.equal:
        return list(delta.reshape(len(rows.sizes), -1, delta.shape[-1]).sum(dim=1).unbind())
    return [block.sum(dim=(0, 1)) for _, block in rows.of(delta)]
