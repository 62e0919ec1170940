"""`softmax_losses`: cross-entropy by blocks of rows with its gradient in one call (csrc/mlp.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pcl_kernels.mlp import compiled


class SoftmaxLosses(NamedTuple):
    """What :func:`softmax_losses` finds.

    Attributes:
        losses: ``(k,)``, the mean cross-entropy of every block of rows, times its factor.
        of_logits: ``(B, columns)``, d loss_i / dz on the rows of block i.
    """

    losses: Tensor
    of_logits: Tensor


def softmax_losses(
    logits: Tensor, target: Tensor, sizes: Sequence[int], factors: Sequence[float] = ()
) -> SoftmaxLosses:
    r"""Cross-entropy by blocks of rows R_i, and its gradient with respect to the logits z; no graph:

    .. math:: \ell_i = \frac{f_i}{|R_i|} \sum_{r \in R_i} -\log \mathrm{softmax}(z_r)_{c_r}, \qquad
              \frac{\partial \ell_i}{\partial z_r} = \frac{f_i}{|R_i|} (\mathrm{softmax}(z_r) - e_{c_r}).

    The compiled kernel runs where that of :func:`mlp` does; everything else takes torch's own operators.

    Args:
        logits: z ``(B, columns)``, any floating dtype and device.
        target: c ``(B,)`` int64, the column of every row's class.
        sizes: \|R_i\| >= 1 of the k blocks, which follow one another and are B rows together.
        factors: f_i; all 1 if left out. A factor of 0 gives zeros, also where the logits are infinite or NaN.

    Raises:
        TypeError: for a target that is not int64.
        ValueError: for logits of another shape, for blocks that are not the rows, for more or fewer factors, and on the
            CPU for a target outside the columns; to look at targets on a GPU would be to wait for it.
    """
    if logits.dim() != 2:
        raise ValueError(f"softmax_losses: expected logits (B, columns), got {tuple(logits.shape)}")
    check_blocks("softmax_losses", logits.shape[0], target, sizes, factors)
    if compiled.reads(logits):
        return kernel_softmax(logits, target, sizes, factors)
    return composed_softmax(logits, target, list(sizes), factors)


def kernel_softmax(logits: Tensor, target: Tensor, sizes: Sequence[int], factors: Sequence[float]) -> SoftmaxLosses:
    losses, of_logits = compiled.softmax_losses(logits, target, sizes, factors)
    if losses.shape[0] == 0:
        raise no_column(logits.shape[1])
    return SoftmaxLosses(losses, of_logits)


def check_blocks(op: str, rows: int, target: Tensor, sizes: Sequence[int], factors: Sequence[float] = ()) -> None:
    if target.dtype != torch.int64:
        raise TypeError(f"{op}: expected target of int64, got {target.dtype}; convert it with .long()")
    if target.shape != (rows,) or sum(sizes) != rows or min(sizes, default=0) < 1:
        raise ValueError(
            f"{op}: expected a target and blocks of at least one row for the {rows} rows; got a target "
            f"{tuple(target.shape)} and sizes {list(sizes)}"
        )
    if factors and len(factors) != len(sizes):
        raise ValueError(f"{op}: expected a factor for each of {len(sizes)} blocks, got {len(factors)}")


@torch.no_grad()
def composed_softmax(logits: Tensor, target: Tensor, sizes: list[int], factors: Sequence[float]) -> SoftmaxLosses:
    columns = logits.shape[1]
    if target.is_cpu and bool(((target < 0) | (target >= columns)).any()):
        raise no_column(columns)
    factors = factors or [1.0] * len(sizes)
    p = logits.softmax(dim=1)
    p.scatter_add_(1, target[:, None], p.new_full((1, 1), -1.0).expand(len(p), 1))
    of_logits = [
        f * (p_i / len(p_i)) if f else torch.zeros_like(p_i) for f, p_i in zip(factors, p.split(sizes), strict=True)
    ]
    of_rows = F.cross_entropy(logits, target, reduction="none").split(sizes)
    losses = [f * part.mean() if f else part.new_zeros(()) for f, part in zip(factors, of_rows, strict=True)]
    return SoftmaxLosses(torch.stack(losses), torch.cat(of_logits))


def no_column(columns: int) -> ValueError:
    return ValueError(f"target: expected numbers from 0 to {columns - 1}, the columns of the logits; got another")
