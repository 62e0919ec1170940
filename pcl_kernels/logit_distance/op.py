"""The distance of logits from stored ones and its derivative: signature, checks, dispatch. Kernel:
csrc/logit_distance.cpp."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pcl_kernels import _C
from pcl_kernels._registry import define, unobserved
from pcl_kernels.logit_distance import reference


class LogitDistance(NamedTuple):
    """What :func:`logit_distance` finds.

    Attributes:
        loss: scalar.
        slopes: its derivative with respect to the logits, ``(B, C)``.
    """

    loss: Tensor
    slopes: Tensor


def logit_distance(logits: Tensor, stored: Tensor, factor: float = 1.0, *, ignored: bool = False) -> LogitDistance:
    r"""The mean squared distance of logits z from those that were stored with the samples, z*, and its derivative:

    .. math:: \ell = \frac{\gamma}{B} \sum_b \frac{1}{C_b} \lVert z_b - z^*_b \rVert^2, \qquad
              \frac{\partial \ell}{\partial z_b} = \frac{2 \gamma}{B \, C_b} (z_b - z^*_b).

    Columns that did not exist when a sample was stored are NaN in its :math:`z^*_b`, or behind its end. There the least
    known value of :math:`z^*_b` takes the place of the missing one, and :math:`C_b = C`; or they are ignored, and
    :math:`C_b` counts the others. A sample of which nothing is known is infinitely far away, or adds nothing.

    The compiled kernel runs on float32 on the CPU, with the sums in float64; everything else is composed in float64.

    Args:
        logits: z ``(B, C)``, any floating dtype and device.
        stored: z* ``(B, W)`` with W <= C, of the same.
        factor: gamma.
        ignored: whether columns that did not exist are left out.

    Returns:
        The loss, NaN for B = 0, and its derivative, in the dtype of the logits. Neither is differentiable.

    Raises:
        TypeError: for operands of different or other dtypes.
        ValueError: for other shapes, or devices that differ.

    Source: Buzzega et al., "Dark Experience for General Continual Learning", NeurIPS 2020, Eq. 5, whose networks have
    all columns from the start.
    """
    if logits.dtype != stored.dtype or not logits.is_floating_point():
        raise TypeError(f"logit_distance: expected one floating dtype, got {logits.dtype} and {stored.dtype}")
    now, then = logits.shape, stored.shape
    if len(now) != 2 or len(then) != 2 or now[0] != then[0] or then[1] > now[1] or logits.device != stored.device:
        raise ValueError(
            f"logit_distance: expected logits (B, C) and stored ones (B, W) with W <= C on one device; got "
            f"{tuple(now)} on {logits.device} and {tuple(then)} on {stored.device}"
        )
    if logits.is_cpu and unobserved():
        return LogitDistance(*_cpu(logits, stored, factor, ignored))
    with torch.no_grad():
        return LogitDistance(*_op(logits, stored, factor, ignored))


def _cpu(logits: Tensor, stored: Tensor, factor: float, ignored: bool) -> tuple[Tensor, Tensor]:
    if logits.dtype != torch.float32:
        with torch.no_grad():
            return reference.logit_distance(logits, stored, factor, ignored)
    loss, slopes = _fake(logits, stored, factor, ignored)
    now, then = (t if t.is_contiguous() and not t.is_neg() else t.resolve_neg().contiguous() for t in (logits, stored))
    rows, columns = now.shape
    results = loss.data_ptr(), slopes.data_ptr()
    _C.logit_distance(
        rows, columns, then.shape[1], now.data_ptr(), then.data_ptr(), float(factor), bool(ignored), *results
    )  # fmt: skip
    return loss, slopes


def _fake(logits: Tensor, stored: Tensor, factor: float, ignored: bool) -> tuple[Tensor, Tensor]:
    return logits.new_empty(()), logits.new_empty(logits.shape)


_op = define(
    "logit_distance(Tensor logits, Tensor stored, float factor, bool ignored) -> (Tensor, Tensor)",
    cpu=_cpu,
    fake=_fake,
    cuda="pcl_kernels.logit_distance.reference:logit_distance",
)
