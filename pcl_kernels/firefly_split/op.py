"""`firefly_split`: signature, checks, dispatch, fake, autograd. Kernels: csrc/firefly_split.cpp, triton.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pcl_kernels import _C
from pcl_kernels._registry import define, plain
from pcl_kernels.firefly_split import reference
from pcl_kernels.firefly_split.checks import check_activation, check_channels, check_pair, check_tensor
from pcl_kernels.firefly_split.layout import addresses, block, empty, empty_gradients, halves, sizes, walk_of, wide
from pcl_kernels.memory_edit.layout import threads_for


def firefly_split(
    a: Tensor,
    d: Tensor,
    epsilon: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    mirror: Tensor | None = None,
    activation: str = "relu",
) -> Tensor:
    """y = (act(s (a + ε d) + t) + act(s (a + mirror ε d) + t)) / 2: both halves of every split neuron, averaged.

    Args:
        a: `(B, m, ...)`, the pre-activations of m neurons; float32, float64, float16 or bfloat16.
        d: those of the directions δ, of a's shape and dtype.
        epsilon: ε `(m,)`, the step of every neuron; any floating dtype, as all vectors here.
        scale, shift: s and t `(m,)`, what a normalisation with fixed statistics does; 1 and 0 if None.
        mirror: `(m,)`, -1 for a neuron that splits, +1 for one that is copied; all -1 if None.
        activation: "identity", "relu", "gelu" (that of the error function), "silu", "tanh", "sigmoid" or "gaussian",
            exp(-u²/2).

    Returns:
        `(B, m, ...)` like a. Differentiable in a, d, epsilon, scale and shift.

    Raises:
        TypeError: for another dtype, or an a and a d whose dtypes differ.
        ValueError: for shapes or devices that do not match, or an activation that is not known.

    Source: Bo Liu's dissertation (2025), Sec. 5.2.2, f_{ε,δ}.
    """
    op = "firefly_split"
    check_activation(op, activation)
    check_tensor(op, "a", a)
    if a.dim() < 2:
        raise ValueError(f"{op}: a: expected shape (B, m, ...), got {tuple(a.shape)}")
    check_pair(op, "d", d, "a", a)
    check_channels(op, a.shape[1], a, epsilon=epsilon, scale=scale, shift=shift, mirror=mirror)
    return split(a, d, epsilon, scale, shift, mirror, activation)


def split(
    a: Tensor,
    d: Tensor | None,
    epsilon: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mirror: Tensor | None,
    activation: str,
) -> Tensor:
    """`firefly_split` behind its checks; without d, a is `(B, 2m, ...)` and holds both, one behind the other."""
    given = [t for t in (a, d, epsilon, scale, shift, mirror) if t is not None]
    if plain(*given):
        return _split_cpu(a, d, epsilon, scale, shift, mirror, activation)
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in given)
    run = _Differentiable.apply if wanted else _split_op
    y: Tensor = run(a, d, epsilon, scale, shift, mirror, activation)
    return y


def _split_cpu(
    a: Tensor,
    d: Tensor | None,
    epsilon: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mirror: Tensor | None,
    activation: str,
) -> Tensor:
    first, second = halves(a, d)
    walk = walk_of(first)
    y = empty(first, walk.channels, walk.rows)
    if y.numel():
        of_a, of_d = block(first, walk.rows), block(second, walk.rows)
        vectors = [wide(v) for v in (epsilon, scale, shift, mirror)]
        step = walk.channels * walk.positions
        _C.firefly_split(
            *(sizes(walk, a, activation), addresses(*vectors), of_a.pair, of_d.pair, (y.data_ptr(), step)),
            threads_for(2 * y.numel()),
        )
    return y


def _split_fake(
    a: Tensor,
    d: Tensor | None,
    epsilon: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mirror: Tensor | None,
    activation: str,
) -> Tensor:
    first, _ = halves(a, d)
    walk = walk_of(first)
    return empty(first, walk.channels, walk.rows)


def _backward_cpu(
    a: Tensor,
    d: Tensor | None,
    epsilon: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mirror: Tensor | None,
    activation: str,
    grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a and d, in one tensor where there is one, and `(3, m)` float64 those of ε, s and t."""
    first, second = halves(a, d)
    walk = walk_of(first)
    da, dd, (to_a, to_d) = empty_gradients(a, d, walk)
    sums = a.new_zeros((3, walk.channels), dtype=torch.float64)
    if not first.numel():
        return da, dd, sums
    of_a, of_d, of_grad = (block(t, walk.rows) for t in (first, second, grad))
    vectors = [wide(v) for v in (epsilon, scale, shift, mirror)]
    _C.firefly_split_backward(
        *(sizes(walk, a, activation), addresses(*vectors), of_a.pair, of_d.pair, of_grad.pair, to_a.pair, to_d.pair),
        *(sums.data_ptr(), threads_for(5 * first.numel())),
    )
    return da, dd, sums


def _backward_fake(
    a: Tensor,
    d: Tensor | None,
    epsilon: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mirror: Tensor | None,
    activation: str,
    grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    first, _ = halves(a, d)
    walk = walk_of(first)
    da, dd, _ = empty_gradients(a, d, walk)
    return da, dd, a.new_empty((3, walk.channels), dtype=torch.float64)


_split_op: Any = define(
    "firefly_split(Tensor a, Tensor? d, Tensor epsilon, Tensor? scale, Tensor? shift, Tensor? mirror, str activation) "
    "-> Tensor",
    cpu=_split_cpu,
    fake=_split_fake,
    cuda="pcl_kernels.firefly_split.triton:firefly_split",
)
_backward_op: Any = define(
    "firefly_split_backward(Tensor a, Tensor? d, Tensor epsilon, Tensor? scale, Tensor? shift, Tensor? mirror, "
    "str activation, Tensor grad) -> (Tensor, Tensor, Tensor)",
    cpu=_backward_cpu,
    fake=_backward_fake,
    cuda="pcl_kernels.firefly_split.triton:firefly_split_backward",
)


class _Differentiable(torch.autograd.Function):
    """The compiled gradient; where a gradient of it is wanted, that of the reference."""

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        d: Tensor | None,
        epsilon: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        mirror: Tensor | None,
        activation: str,
    ) -> Tensor:
        ctx.save_for_backward(a, d, epsilon, scale, shift, mirror)
        ctx.activation = activation
        y: Tensor = _split_op(a, d, epsilon, scale, shift, mirror, activation)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *_again(saved, ctx.activation, ctx.needs_input_grad, grad), None, None
        a, d, epsilon, scale, shift, mirror = saved
        da, dd, sums = _backward_op(a, d, epsilon, scale, shift, mirror, ctx.activation, grad)
        vectors = (None if v is None else g.to(v.dtype) for v, g in zip((epsilon, scale, shift), sums, strict=True))
        return da, dd if d is not None else None, *vectors, None, None


def _again(
    saved: tuple[Tensor | None, ...], activation: str, needed: tuple[bool, ...], grad: Tensor
) -> list[Tensor | None]:
    """The gradients of the first five operands, differentiable themselves."""
    # views, so that an operand that was made from another does not lead back to it
    a, d, epsilon, scale, shift, mirror = (None if t is None else t.view_as(t) for t in saved)
    assert a is not None
    assert epsilon is not None
    y = reference.firefly_split(*halves(a, d), epsilon, scale, shift, mirror=mirror, activation=activation)
    given = (a, d, epsilon, scale, shift)
    wanted = [t for t, n in zip(given, needed, strict=False) if t is not None and n]
    found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
    return [next(found) if t is not None and n else None for t, n in zip(given, needed, strict=False)]
