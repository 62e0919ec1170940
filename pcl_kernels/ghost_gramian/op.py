"""The Gramian of a linear layer's gradients without the gradients: signature, checks, dispatch. Kernel:
csrc/ghost_gramian.cpp."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pcl_kernels import _C
from pcl_kernels._gradients import DTYPES
from pcl_kernels._registry import define, unobserved
from pcl_kernels.memory_edit.layout import threads_for


def ghost_gramian(a: Tensor, delta: Tensor, sizes: Sequence[int], *, bias: bool = False) -> Tensor:
    r"""The Gramian of k gradients of a linear layer, from its inputs and the derivatives with respect to its outputs.

    Block i of the rows, R_i, gives the gradients :math:`g_i = \sum_{b \in R_i} \delta_b a_b^\top` of the weight and
    :math:`\sum_{b \in R_i} \delta_b` of the bias. Their products need none of them ("ghost" products):

    .. math:: G_{ij} = \sum_{b \in R_i} \sum_{c \in R_j} (a_b \cdot a_c + [\text{bias}]) \, (\delta_b \cdot \delta_c).

    That is B^2 (n + m) / 2 multiplications in place of k n m for every gradient and k^2 n m / 2 for their products, so
    that it is cheap for small batches and wide layers. Products are made and added up in float64.

    Args:
        a: ``(B, n)``, the layer's inputs; float32, float64, float16 or bfloat16.
        delta: ``(B, m)``, of any of these.
        sizes: \|R_i\| of the k blocks, which follow one another and are B rows together.
        bias: whether the layer's bias is among the parameters.

    Returns:
        float64 ``(k, k)``, symmetric to the bit. Not differentiable.

    Raises:
        TypeError: for another dtype.
        ValueError: for other shapes, devices that differ, or blocks that are not the rows.

    Source: Goodfellow, "Efficient Per-Example Gradient Computations", arXiv 1510.01799, Sec. 4, for norms; the products
    of two rows follow in the same way.
    """
    if a.dtype not in DTYPES or delta.dtype not in DTYPES:
        raise TypeError(
            f"ghost_gramian: expected float16, bfloat16, float32 or float64; got {a.dtype} and {delta.dtype}. Convert "
            "them"
        )
    if a.dim() != 2 or delta.dim() != 2 or a.shape[0] != delta.shape[0] or a.device != delta.device:
        raise ValueError(
            f"ghost_gramian: expected a (B, n) and delta (B, m) on one device; got {tuple(a.shape)} on {a.device} and "
            f"{tuple(delta.shape)} on {delta.device}"
        )
    sizes = list(sizes)
    if sum(sizes) != a.shape[0] or min(sizes, default=0) < 0:
        raise ValueError(f"ghost_gramian: expected blocks for the {a.shape[0]} rows of a; got sizes {sizes}")
    if a.is_cpu and unobserved():
        return _cpu(a, delta, sizes, bias)
    with torch.no_grad():
        return _op(a, delta, sizes, bias)  # type: ignore[no-any-return]


def _cpu(a: Tensor, delta: Tensor, sizes: list[int], bias: bool) -> Tensor:
    gram = _fake(a, delta, sizes, bias)
    a, delta = (t if t.stride(1) == 1 and not t.is_neg() else t.resolve_neg().contiguous() for t in (a, delta))
    threads = threads_for(a.shape[0] * (a.numel() + delta.numel()) // 16)
    _C.ghost_gramian(sizes, _rows(a), _rows(delta), float(bias), gram.data_ptr(), threads)
    return gram


def _rows(t: Tensor) -> tuple[int, int, int, int]:
    return t.data_ptr(), DTYPES[t.dtype], t.shape[1], t.stride(0)


def _fake(a: Tensor, delta: Tensor, sizes: Sequence[int], bias: bool) -> Tensor:
    return a.new_empty((len(sizes), len(sizes)), dtype=torch.float64)


_op = define(
    "ghost_gramian(Tensor a, Tensor delta, int[] sizes, bool bias) -> Tensor",
    cpu=_cpu,
    fake=_fake,
    cuda="pcl_kernels.ghost_gramian.reference:ghost_gramian",
)
