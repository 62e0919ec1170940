"""The compiled calls behind `mlp`: as registered ops, which dispatch modes see, and directly where none looks on.

Operands are as the kernel reads them: see `fits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from pcl_kernels import _C
from pcl_kernels._gradients import READ_IN_CPP
from pcl_kernels._registry import define, unobserved, untransformed

_KNOWN = (Tensor, torch.nn.Parameter)


class MLPGradients(NamedTuple):
    """What :func:`mlp_backward` finds.

    Attributes:
        deltas: df/d(W_l h_{l-1} + b_l) ``(B, n_l)`` for l = 1 ... L-1.
        weights: df/dW_l, the sum over rows of delta_l h_{l-1}ᵀ, for l = 1 ... L; None where not wanted.
        biases: df/db_l, the sum over rows of delta_l; None where not wanted.
        x: df/dx ``(B, n_0)``; None where not wanted.
    """

    deltas: list[Tensor]
    weights: list[Tensor | None]
    biases: list[Tensor | None]
    x: Tensor | None = None


def fits(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None] | None,
    behind: Sequence[Tensor] | None = None,
    scale: Tensor | None = None,
) -> bool:
    """Whether these operands fit together and the kernel reads them where they are, x perhaps after a copy.

    ``behind`` has a tensor ``(B, n_l)`` for every layer, ``scale`` is one of ``(B,)``. What is None is not looked at.
    """
    if not at_hand():
        return False
    return _C.mlp_fits(x, weights, biases, behind, scale) if READ_IN_CPP else _fit(x, weights, biases, behind, scale)


def sized(x: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether they are matrices, at least one layer."""
    return len(weights) > 0 and all(isinstance(t, Tensor) and t.dim() == 2 for t in (x, *weights))


def reads(logits: Tensor) -> bool:
    """Whether the kernel of cross-entropy reads these, perhaps after a copy; where that of the layers does not run, it
    does not either, so that one call has the bits of two."""
    return (
        type(logits) in _KNOWN and logits.dtype == torch.float32 and logits.is_cpu and not logits.is_neg() and at_hand()
    )


def at_hand() -> bool:
    """Whether a call may run on the kernels at all."""
    if not untransformed() or torch._C._get_tracing_state() is not None or torch.is_autocast_enabled("cpu"):
        return False
    if torch._C._len_torch_function_stack() or torch.autograd.forward_ad._current_level >= 0:
        return False
    return _C.isa() != "baseline"


def _fit(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None] | None,
    behind: Sequence[Tensor] | None,
    scale: Tensor | None,
) -> bool:
    """The same in Python: an older torch has nothing that C++ could ask."""
    if not all(isinstance(t, Tensor) and t.dim() == 2 for t in (x, *weights)):
        return False
    biases = [None] * len(weights) if biases is None else biases
    for t in (x, *weights, *biases, *(behind or ()), scale):
        if t is None:
            continue
        if type(t) not in _KNOWN or t.dtype != torch.float32 or not t.is_cpu or t.numel() == 0:
            return False
        if t.is_neg() or t._is_zerotensor() or not (t is x or t.is_contiguous()):
            return False
    if len(weights) == 0 or len(biases) != len(weights):
        return False
    rows, widths = _shape(x, weights)
    return (
        [w.shape for w in weights] == [(m, n) for n, m in pairwise(widths)]
        and all(b is None or b.shape == (m,) for b, m in zip(biases, widths[1:], strict=True))
        and (behind is None or [h.shape for h in behind] == [(rows, m) for m in widths[1:]])
        and (scale is None or scale.shape == (rows,))
    )


def forward(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], relu_last: bool) -> list[Tensor]:
    """h_1 ... h_L; without `relu_last` there is no ReLU behind the last."""
    if unobserved():
        return _forward_cpu(x, weights, biases, relu_last)
    with torch.no_grad():
        return _forward_op(x, weights, biases, relu_last)  # type: ignore[no-any-return]


def _forward_cpu(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], relu_last: bool
) -> list[Tensor]:
    x = x.contiguous()
    rows, widths = _shape(x, weights)
    hidden = _forward_fake(x, weights)
    of_layers = _addresses(weights), _addresses(biases), _addresses(hidden)
    _C.mlp_forward(rows, widths, relu_last, x.data_ptr(), *of_layers, torch.get_num_threads())
    return hidden


def _forward_fake(x: Tensor, weights: Sequence[Tensor], *_: Any) -> list[Tensor]:
    rows = x.shape[0]
    return [x.new_empty(rows, w.shape[0]) for w in weights]


def softmax_losses(
    logits: Tensor, target: Tensor, sizes: Sequence[int], factors: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """The losses of the blocks, times factors if there are some, and their gradient; no losses where a target is no
    column."""
    if unobserved():
        return _softmax_cpu(logits, target, list(sizes), list(factors))
    with torch.no_grad():
        return _softmax_op(logits, target, list(sizes), list(factors))  # type: ignore[no-any-return]


def _softmax_cpu(logits: Tensor, target: Tensor, sizes: list[int], factors: list[float]) -> tuple[Tensor, Tensor]:
    losses, of_logits = _softmax_fake(logits, target, sizes, factors)
    logits, target = logits.contiguous(), target.contiguous()
    addresses = logits.data_ptr(), losses.data_ptr(), of_logits.data_ptr()
    found = _C.softmax_losses(logits.shape[1], target.data_ptr(), sizes, factors, *addresses)
    return losses if found else losses.new_empty(0), of_logits


def _softmax_fake(
    logits: Tensor, target: Tensor, sizes: Sequence[int], factors: Sequence[float]
) -> tuple[Tensor, Tensor]:
    return logits.new_empty(len(sizes)), logits.new_empty(logits.shape)


def backward(
    x: Tensor,
    weights: Sequence[Tensor],
    hidden: Sequence[Tensor],
    grad: Tensor,
    scale: Tensor | None,
    wanted: Sequence[bool],
    lowest: int,
    of_x: bool = False,
) -> MLPGradients:
    """As :func:`mlp_backward`; below the layer ``lowest`` nothing is found. With h_L in ``hidden`` there is
    a ReLU behind the last layer, and ``grad`` is df/dh_L."""
    if unobserved():
        flat = _backward_cpu(x, weights, hidden, grad, scale, list(wanted), lowest, of_x)
    else:
        with torch.no_grad():
            flat = _backward_op(x, weights, hidden, grad, scale, list(wanted), lowest, of_x)
    deltas, rest, layers = flat[: len(hidden)], iter(flat[len(hidden) :]), len(weights)
    found = [next(rest) if n else None for n in (*wanted, of_x)]
    return MLPGradients(deltas, found[:layers], found[layers:-1], found[-1])


def _backward_cpu(
    x: Tensor,
    weights: Sequence[Tensor],
    hidden: Sequence[Tensor],
    grad: Tensor,
    scale: Tensor | None,
    wanted: Sequence[bool],
    lowest: int,
    of_x: bool,
) -> list[Tensor]:
    """All that `backward` finds, without what is not wanted."""
    x, grad, scale = x.contiguous(), grad.contiguous(), None if scale is None else scale.contiguous()
    rows, widths = _shape(x, weights)
    flat = _backward_fake(x, weights, hidden, grad, scale, wanted, lowest, of_x)
    deltas, rest, layers = _addresses(flat[: len(hidden)]), iter(flat[len(hidden) :]), len(weights)
    *of_layers, dx = [next(rest).data_ptr() if n else 0 for n in (*wanted, of_x)]
    _C.mlp_backward(
        rows,
        widths,
        len(hidden) == layers,
        x.data_ptr(),
        _addresses(weights),
        _addresses(hidden),
        grad.data_ptr(),
        0 if scale is None else scale.data_ptr(),
        [deltas, of_layers[:layers], of_layers[layers:]],
        dx,
        lowest,
        torch.get_num_threads(),
    )
    return flat


def _backward_fake(x: Tensor, weights: Sequence[Tensor], hidden: Sequence[Tensor], *others: Any) -> list[Tensor]:
    _, _, wanted, _, of_x = others
    of_weights = [torch.empty_like(w) for w, n in zip(weights, wanted, strict=False) if n]
    of_biases = [x.new_empty(len(w)) for w, n in zip(weights, wanted[len(weights) :], strict=True) if n]
    return [*map(torch.empty_like, hidden), *of_weights, *of_biases, *([torch.empty_like(x)] if of_x else [])]


def losses(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    target: Tensor,
    sizes: Sequence[int],
    factors: Sequence[float],
) -> tuple[list[Tensor], Tensor, Tensor] | None:
    """h_1 ... h_{L-1} and the logits, the losses of the blocks and their gradient, in one call; None where the kernel
    does not read the operands or somebody looks on. No losses where a target is no column."""
    if not (READ_IN_CPP and at_hand() and unobserved()):
        return None
    x, target = x.contiguous(), target.contiguous()
    hidden = _forward_fake(x, weights)
    found, of_logits = _softmax_fake(hidden[-1], target, sizes, factors)
    results = hidden, found.data_ptr(), of_logits.data_ptr()
    threads = torch.get_num_threads()
    done = _C.mlp_losses(x, weights, biases, target.data_ptr(), list(sizes), list(factors), *results, threads)
    if done is None:
        return None
    return hidden, found if done else found.new_empty(0), of_logits


def descend(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    behind: Sequence[Tensor],
    scale: Tensor | None,
    lr: float,
    out: tuple[Sequence[Tensor | None], Sequence[Tensor | None]] | None,
) -> bool | None:
    """As :func:`mlp_descend`, with h_1 ... h_{L-1} and the gradient of the logits ``behind`` the layers. None where the
    kernel does not read the operands, or somebody looks on; False also where a gradient may be finite and is near the
    end of the range."""
    if not (READ_IN_CPP and at_hand() and unobserved()):
        return None
    to_weights, to_biases = (None, None) if out is None else out
    done = _C.mlp_descend(x, weights, biases, behind, scale, lr, to_weights, to_biases, torch.get_num_threads())
    if done:
        increment_version([t for part in out or (weights, biases) for t in part if t is not None])
    return done


def _addresses(tensors: Sequence[Tensor | None]) -> list[int]:
    return [0 if t is None else t.data_ptr() for t in tensors]


def _shape(x: Tensor, weights: Sequence[Tensor]) -> tuple[int, list[int]]:
    return x.shape[0], [x.shape[1], *[w.shape[0] for w in weights]]  # len(tensor) is slow


_forward_op = define(
    "mlp_forward(Tensor x, Tensor[] weights, Tensor?[] biases, bool relu_last) -> Tensor[]",
    cpu=_forward_cpu,
    fake=_forward_fake,
)
_softmax_op = define(
    "softmax_losses(Tensor logits, Tensor target, int[] sizes, float[] factors) -> (Tensor, Tensor)",
    cpu=_softmax_cpu,
    fake=_softmax_fake,
)
_backward_op = define(
    "mlp_backward(Tensor x, Tensor[] weights, Tensor[] hidden, Tensor grad, Tensor? scale, bool[] wanted, int lowest, "
    "bool of_x) -> Tensor[]",
    cpu=_backward_cpu,
    fake=_backward_fake,
)
