"""Linear layers with split neurons on the CPU: reading, fake, gradient; kernel csrc/firefly_linear.cpp.

One matrix product for [W; Δ] whose results are taken while they are in registers. Stacking the weights, writing the
pre-activations and reading them again took as long as a quarter of the products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pcl_kernels import _C
from pcl_kernels._registry import define, unobserved
from pcl_kernels.firefly_split.checks import ACTIVATIONS
from pcl_kernels.firefly_split.layout import addresses, held, wide
from pcl_kernels.firefly_split.whole_layer import Operands, WholeLayer, stacked_biases
from pcl_kernels.memory_edit.layout import threads_for


def usual(operands: Operands, activation: str) -> Tensor | None:
    """The layer where all is as usual (csrc/firefly_usual.hpp); None, and nothing done, where it is not."""
    x, weight = operands[:2]
    if not (x.is_cpu and x.dim() and unobserved()):
        return None
    y = x.new_empty(*x.shape[:-1], weight.shape[0])
    options = ACTIVATIONS[activation], torch.is_grad_enabled(), _threads(x, weight)
    return y if _C.firefly_linear_usual([*operands, y], *options) else None


def suits(x: Tensor, weight: Tensor) -> bool:
    """Whether these are float32 CPU tensors of a Linear layer, on a processor for which the kernel is written."""
    return (
        x.dtype == torch.float32
        and x.is_cpu
        and weight.dim() == 2
        and x.dim() > 0
        and min(x.numel(), weight.numel()) > 0
        # a compiler cannot look into the extension, and the op is right everywhere
        and (torch.compiler.is_dynamo_compiling() or _C.isa() != "baseline")
    )


def stacked(x: Tensor, weight: Tensor, delta: Tensor, bias: Tensor | None, delta_bias: Tensor | None) -> Tensor:
    """[a; d] `(B, 2m)` by torch."""
    return F.linear(x, torch.cat([weight, delta]), stacked_biases(bias, delta_bias))


def _threads(x: Tensor, weight: Tensor) -> int:
    return threads_for(x.numel() + 2 * weight.numel())


def _cpu(*arguments: Any) -> tuple[Tensor, Tensor]:
    *operands, activation, keep = arguments
    y, z = _fake(*arguments)
    x, weight = operands[:2]
    of_layer = [None if t is None else held(t).contiguous() for t in operands[:5]]
    vectors = [wide(v) for v in operands[5:]]
    _C.firefly_linear(
        [*x.shape, len(weight)],
        addresses(*of_layer),
        addresses(*vectors),
        ACTIVATIONS[activation],
        y.data_ptr(),
        z.data_ptr() if keep else 0,
        _threads(x, weight),
    )
    return y, z


def _fake(x: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    keep = others[-1]
    return x.new_empty(len(x), len(weight)), x.new_empty((len(x), 2 * len(weight)) if keep else (0,))


def _backward(dz: Tensor, x: Tensor, weight: Tensor, delta: Tensor, needs: Sequence[bool]) -> tuple[Tensor | None, ...]:
    of_a, of_d = dz.chunk(2, dim=1)
    return (
        torch.addmm(of_a @ weight, of_d, delta) if needs[0] else None,
        of_a.t() @ x if needs[1] else None,
        of_d.t() @ x if needs[2] else None,
        of_a.sum(0) if needs[3] else None,
        of_d.sum(0) if needs[4] else None,
    )


_op = define(
    "firefly_linear(Tensor x, Tensor weight, Tensor delta, Tensor? bias, Tensor? delta_bias, Tensor epsilon, "
    "Tensor? scale, Tensor? shift, Tensor? mirror, str activation, bool keep) -> (Tensor, Tensor)",
    cpu=_cpu,
    fake=_fake,
)

#: x `(B, n)`, W and Δ `(m, n)`; no options
split_linear = WholeLayer(_op, _cpu, stacked, _backward)
