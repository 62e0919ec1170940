"""`mlp_row_losses`, `mlp_row_slopes`: a perceptron's cross-entropy of every row for itself, and its derivative with
respect to the row, in one compiled call that keeps nothing else (csrc/mlp.cpp)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pcl_kernels import _C
from pcl_kernels._gradients import READ_IN_CPP
from pcl_kernels._registry import define, unobserved
from pcl_kernels.mlp.compiled import at_hand, fits, sized
from pcl_kernels.mlp.op import mlp_backward, mlp_losses
from pcl_kernels.mlp.softmax import no_column


def mlp_row_losses(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], target: Tensor) -> Tensor:
    r"""Cross-entropy of every row of a perceptron's logits z, without a graph:

    .. math:: \ell_r = -\log \mathrm{softmax}(z_r)_{c_r}.

    The bits of :func:`pcl_kernels.mlp_losses` with a block for every row.

    Args:
        x, weights, biases: as for :func:`pcl_kernels.mlp_losses`.
        target: c ``(B,)`` int64, the column of every row's class.

    Returns:
        ``(B,)``.

    Raises:
        TypeError, ValueError: as :func:`pcl_kernels.mlp_losses`.
    """
    found = _compiled(x, weights, biases, target, False)
    return mlp_losses(x, weights, biases, target, _alone(x)).losses if found is None else found


def mlp_row_slopes(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], target: Tensor) -> Tensor:
    r"""The derivative of every row's cross-entropy, see :func:`mlp_row_losses`, with respect to the row:
    :math:`\partial \ell_r / \partial x_r`. Arguments and errors as there.

    The bits of :func:`pcl_kernels.mlp_backward` behind :func:`pcl_kernels.mlp_losses` with a block for every row.

    Returns:
        ``(B, n_0)``.
    """
    found = _compiled(x, weights, biases, target, True)
    if found is not None:
        return found
    run = mlp_losses(x, weights, biases, target, _alone(x))
    slopes = mlp_backward(x, weights, run.hidden, run.of_logits, wanted=[False] * (2 * len(weights)), of_x=True).x
    assert slopes is not None
    return slopes


def _alone(x: Tensor) -> list[int]:
    """A block for every row; what is no matrix is refused elsewhere."""
    return [1] * x.shape[0] if isinstance(x, Tensor) and x.dim() else []


def _compiled(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], target: Tensor, slopes: bool
) -> Tensor | None:
    """What the kernel finds; None where it does not read the operands."""
    if not (READ_IN_CPP and at_hand() and sized(x, weights)):
        return None
    if target.dtype != torch.int64 or target.shape != x.shape[:1]:
        return None
    if unobserved():
        return _run(x, weights, biases, target, slopes)
    if not (fits(x, weights, biases) and x.is_contiguous()):
        return None
    with torch.no_grad():
        return _op(x, weights, biases, target, slopes)  # type: ignore[no-any-return]


def _run(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], target: Tensor, slopes: bool
) -> Tensor | None:
    losses, target = x.new_empty(x.shape[0]), target.contiguous()
    of_x = torch.empty_like(x, requires_grad=False) if slopes else None
    to = losses.data_ptr(), 0 if of_x is None else of_x.data_ptr()
    found = _C.mlp_rows(x, weights, biases, target.data_ptr(), *to, torch.get_num_threads())
    if found is None:
        return None
    if not found:
        raise no_column(weights[-1].shape[0])
    return losses if of_x is None else of_x


def _cpu(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], target: Tensor, slopes: bool) -> Tensor:
    found = _run(x, weights, biases, target, slopes)
    assert found is not None
    return found


def _fake(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], target: Tensor, slopes: bool
) -> Tensor:
    return torch.empty_like(x) if slopes else x.new_empty(x.shape[0])


_op = define(
    "mlp_rows(Tensor x, Tensor[] weights, Tensor?[] biases, Tensor target, bool slopes) -> Tensor",
    cpu=_cpu,
    fake=_fake,
)
