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
        losses: ``(k,)``, the mean cross-entropy of every block of rows.
        of_logits: ``(B, columns)``, d loss_i / dz on the rows of block i.
    """

    losses: Tensor
    of_logits: Tensor


def softmax_losses(logits: Tensor, target: Tensor, sizes: Sequence[int]) -> SoftmaxLosses:
    r"""Cross-entropy by blocks of rows R_i, and its gradient with respect to the logits z; no graph:

    .. math:: \ell_i = \frac{1}{|R_i|} \sum_{r \in R_i} -\log \mathrm{softmax}(z_r)_{c_r}, \qquad
              \frac{\partial \ell_i}{\partial z_r} = \frac{\mathrm{softmax}(z_r) - e_{c_r}}{|R_i|}.

    The compiled kernel runs where that of :func:`mlp` does; everything else takes torch's own operators.

    Args:
        logits: z ``(B, columns)``, any floating dtype and device.
        target: c ``(B,)`` int64, the column of every row's class.
        sizes: \|R_i\| >= 1 of the k blocks, which follow one another and are B rows together.

    Raises:
        TypeError: for a target that is not int64.
        ValueError: for logits of another shape, for blocks that are not the rows, and on the CPU for a target outside
            the columns; to look at targets on a GPU would be to wait for it.
    """
    if logits.dim() != 2:
        raise ValueError(f"softmax_losses: expected logits (B, columns), got {tuple(logits.shape)}")
    check_blocks("softmax_losses", logits.shape[0], target, sizes)
    if compiled.reads(logits):
        return kernel_softmax(logits, target, sizes)
    return composed_softmax(logits, target, list(sizes))


def kernel_softmax(logits: Tensor, target: Tensor, sizes: Sequence[int]) -> SoftmaxLosses:
    losses, of_logits = compiled.softmax_losses(logits, target, sizes)
    if losses.shape[0] == 0:
        raise _no_column(logits.shape[1])
    return SoftmaxLosses(losses, of_logits)


def check_blocks(op: str, rows: int, target: Tensor, sizes: Sequence[int]) -> None:
    if target.dtype != torch.int64:
        raise TypeError(f"{op}: expected target of int64, got {target.dtype}; convert it with .long()")
    if target.shape != (rows,) or sum(sizes) != rows or min(sizes, default=0) < 1:
        raise ValueError(
            f"{op}: expected a target and blocks of at least one row for the {rows} rows; got a target "
            f"{tuple(target.shape)} and sizes {list(sizes)}"
        )


@torch.no_grad()
def composed_softmax(logits: Tensor, target: Tensor, sizes: list[int]) -> SoftmaxLosses:
    columns = logits.shape[1]
    if target.is_cpu and bool(((target < 0) | (target >= columns)).any()):
        raise _no_column(columns)
    p = logits.softmax(dim=1)
    p.scatter_add_(1, target[:, None], p.new_full((1, 1), -1.0).expand(len(p), 1))
    of_logits = torch.cat([p_i / len(p_i) for p_i in p.split(sizes)])
    of_rows = F.cross_entropy(logits, target, reduction="none").split(sizes)
    return SoftmaxLosses(torch.stack([part.mean() for part in of_rows]), of_logits)


def _no_column(columns: int) -> ValueError:
    return ValueError(
        f"softmax_losses: expected targets from 0 to {columns - 1}, the columns of the logits; got another"
    )
